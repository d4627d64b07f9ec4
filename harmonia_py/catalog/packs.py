"""The port `KeptPacks`: packs of chunks, in what is held to a size."""

from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp


class PackedSize(Struct, frozen=True, kw_only=True):
    """The size of files in chunks.

    Attributes:
        sent: bytes of these files as they are sent, which the size of all files counts.
        packs: bytes of the packs that have the chunks.
        needed: bytes of the packs once those are written anew that have too much of what nothing needs.
        leaving: bytes of packs that stay on the disk until no reader opens them any more, and until garbage is deleted.
    """

    sent: int = 0
    packs: int = 0
    needed: int = 0
    leaving: int = 0


class KeptPacks(Protocol):
    """The packs of a directory or a bucket. Each method raises `StorageError` when the catalog cannot tell."""

    async def size(self) -> PackedSize:
        """The size of the files in chunks."""

    async def condemned(self) -> int:
        """The bytes, as they are sent, of condemned objects whose files are in chunks; all condemned ones are read."""

    async def collect(self) -> bool:
        """Have packs go of which nothing is needed, and write at most one anew; returns whether more may go then.

        Raises:
            StorageError: there is no room for that.
        """

    def note_deleted(self, now: Timestamp) -> None:
        """Note that packs are deleted whose time had come by `now`: they are not leaving any more."""
