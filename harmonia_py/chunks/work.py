"""The port `ChunkWork`: the figures of chunks, of objects whose files are to become chunks, and of the job."""

from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.collection import Figures
from harmonia_py.chunks.catalog import DuePlace


class ChunkFigures(Struct, frozen=True):
    """Running totals.

    Attributes:
        files: files that are made of chunks.
        former_size: bytes that these files took before.
        packs: packs that there are.
        pack_size: bytes of the packs.
        used_size: bytes of the packs that were used when each was last looked at, without those that have lost their
            last use since.
        sent_size: bytes of the files as they are sent.
    """

    files: int = 0
    former_size: int = 0
    packs: int = 0
    pack_size: int = 0
    used_size: int = 0
    sent_size: int = 0


class LastLook(Struct, frozen=True, kw_only=True):
    """The last pass of the job.

    Attributes:
        ended: when it ended, to ten minutes.
        waiting: objects that it had not come to by then.
        failed: when the job last failed; None: never.
        error: the reason of that failure, in words.
    """

    ended: Timestamp | None = None
    waiting: int = 0
    failed: Timestamp | None = None
    error: str | None = None


class Packed(Figures, frozen=True):
    """The figures of files that were made into chunks.

    Attributes:
        files: files that became chunks.
        nar_bytes: bytes of the NARs of these.
        new_bytes: bytes that were added to packs.
        file_bytes: bytes of the files before.
        left: files that stay as they are, because they cannot be read, cut, or made again.
    """

    files: int = 0
    nar_bytes: int = 0
    new_bytes: int = 0
    file_bytes: int = 0
    left: int = 0


class ChunkWork(Protocol):
    """Figures of the job. Each method raises `StorageError` when the catalog cannot tell."""

    async def figures(self) -> ChunkFigures:
        """The running totals: this reads a few rows, however many chunks there are."""

    async def set_aside(self, now: Timestamp) -> tuple[int, int]:
        """The bytes of the packs that cannot be read and are not looked at before a time after `now`; those in use."""

    async def count_anew(self) -> None:
        """Set the running totals to what counting says: this reads all rows of recipes and packs.

        A process of a release before these totals leaves them as they are when it collects.
        """

    async def waiting(self, cache: CacheId, unused_since: Timestamp, after: DuePlace | None, limit: int) -> int:
        """The number of objects of a cache after a place that are unused since then, counted up to `limit`."""

    async def condemned(self) -> int:
        """The bytes, as they are sent, of condemned objects with files made of chunks. All condemned ones are read."""

    async def chunked(self, cache: CacheId) -> int:
        """The number of objects of a cache with a file that is made of chunks. This reads all of its objects."""

    async def note(self, look: LastLook) -> None:
        """Note how a pass of the job went."""

    async def last(self) -> LastLook | None:
        """The last pass; None when there was none."""
