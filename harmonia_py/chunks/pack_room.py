"""`PackRoom`: the room that chunks take in what is held to limits."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.packs import PackedSize
from harmonia_py.chunks.pack_collector import PackCollector, PacksCollected
from harmonia_py.chunks.work import ChunkWork
from harmonia_py.metrics.board import Counter

# By then the collector of paths has deleted what it may delete, unless the storage does not answer.
_DELETED_SECONDS: Final = 120


class PackRoom(Struct, eq=False):
    """As `KeptPacks`. Use it under the lock of the collector.

    Attributes:
        work: has the figures.
        collector: of the packs.
        errors: counts packs that were set aside; it is asked for with the first of them: where there are no chunks,
            no figures of any are shown.
    """

    work: ChunkWork
    collector: PackCollector
    errors: Callable[[], Counter]
    # Bytes of packs that are deleted, each with the time until which they count.
    _leaving: list[tuple[int, int]] = []

    async def size(self) -> PackedSize:
        """As in `KeptPacks`."""
        figures, now = await self.work.figures(), self.collector.storage.now()
        self.note_deleted(Timestamp(now - _DELETED_SECONDS))
        aside, used_aside = await self.work.set_aside(now)
        needed = int((figures.used_size - used_aside) / self.collector.used_share()) + aside
        return PackedSize(
            sent=figures.sent_size,
            packs=figures.pack_size,
            needed=min(figures.pack_size, needed),
            leaving=sum(size for _, size in self._leaving),
        )

    async def condemned(self) -> int:
        """As in `KeptPacks`."""
        return await self.work.condemned()

    async def collect(self) -> bool:
        """As in `KeptPacks`."""
        collected = await self.run()
        return collected.removed > 0 or collected.has_more

    async def run(self) -> PacksCollected:
        """As `PackCollector.run`."""
        collected = await self.collector.run()
        now = self.collector.storage.now()
        self._leaving += [
            (now, collected.removed_bytes - collected.emptied_bytes),
            (now + self.collector.grace_seconds, collected.emptied_bytes),
        ]
        if collected.set_aside:
            self.errors().add(collected.set_aside)
        return collected

    def note_deleted(self, now: Timestamp) -> None:
        """As in `KeptPacks`."""
        self._leaving = [(until, size) for until, size in self._leaving if until > now]
