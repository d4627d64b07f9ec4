"""The port `Passes`: when collections ended and what they freed, for people who do not read a server's metrics."""

from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp


class Freed(Struct, frozen=True, kw_only=True):
    """The figures of a collection that freed something.

    Attributes:
        ended: when it ended.
        paths: number of paths that were removed.
        size: bytes of their files.
    """

    ended: Timestamp
    paths: int
    size: int


class LastPass(Struct, frozen=True, kw_only=True):
    """The last collection, and the last that freed something.

    Attributes:
        ended: when the last one ended, to ten minutes.
        freed: the figures of the last one that freed something.
    """

    ended: Timestamp
    freed: Freed | None = None


class Passes(Protocol):
    """Passes of the collector. Each method raises `StorageError` when the catalog cannot tell."""

    async def note(self, ended: Timestamp, paths: int, size: int) -> None:
        """Note that a collection has ended, and how much it removed."""

    async def last(self) -> LastPass | None:
        """The last collection; None when none has ended yet."""
