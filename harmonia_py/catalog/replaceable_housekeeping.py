"""The background work for one directory, done by one of the processes that share it: make room, delete garbage."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from harmonia_py.catalog.caches import Timestamp, time_by
from harmonia_py.catalog.collection import Collecting
from harmonia_py.catalog.collector import Collector, make_room
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.objects import ObjectIndex
from harmonia_py.catalog.packs import KeptPacks, PackedSize
from harmonia_py.catalog.quota import Limits, excess
from harmonia_py.catalog.rooms import REPLACEABLE
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

# Free space is cheap to ask for. Other programs fill the disk as well.
_CHECK_SECONDS: Final = 10.0
# A pass of the job that makes chunks takes as long, and the pause between two passes may be a second.
_WAIT_SECONDS: Final = 15.0
# What goes frees few bytes where many paths share chunks, so room is made in rounds. The next look goes on.
_ROUNDS: Final = 8


class EvictionCounters(Counters, frozen=True):
    """The present size, and evictions since the start.

    Attributes:
        blobs: number of objects, at the last look.
        bytes: the size of their files.
        evicted_blobs: objects that were evicted.
        evicted_bytes: the size of their files.
    """

    blobs: Gauge = gauged(families.kept.CACHE_BLOBS)
    bytes: Gauge = gauged(families.kept.CACHE_BYTES)
    evicted_blobs: Counter = counted(families.kept.CACHE_EVICTED_BLOBS)
    evicted_bytes: Counter = counted(families.kept.CACHE_EVICTED_BYTES)


class ReplaceableHousekeeping:
    """Looks after one directory of kept files: evicts, and deletes what no row names.

    Args:
        collector: condemns, removes and deletes.
        index: tells the size of all objects.
        uses: last uses that this process has not written to the catalog yet.
        limits: of the directory.
        collecting: makes this process the one that collects.
        free_bytes: asks how much room the file system has.
        generation: a number that changes when something is published or removed; None during such a change.
        counters: are kept up to date.
        packs: of files in chunks.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        collector: Collector,
        index: ObjectIndex,
        uses: LastUses,
        limits: Limits,
        *,
        collecting: Collecting,
        free_bytes: Callable[[], Awaitable[int]],
        generation: Callable[[], int | None],
        counters: EvictionCounters,
        packs: KeptPacks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._collector = collector
        self._index = index
        self._uses = uses
        self._limits = limits
        self._collecting = collecting
        self._free_bytes = free_bytes
        self._generation = generation
        self._counters = counters
        self._packs = packs
        self._clock = clock
        self._warning = RareWarning(_log)
        self._size = 0
        self._seen: int | None = None

    async def run(self) -> None:
        """Look every ten seconds, until the caller cancels it."""
        while True:
            try:
                await self.look(_WAIT_SECONDS)
            except StorageError as error:
                _log.warning("cannot evict: %s", error)
            await asyncio.sleep(_CHECK_SECONDS)

    async def look(self, wait_seconds: float = 0.0) -> None:
        """Count, when something has changed, and make room when there is not enough; delete what is garbage.

        Nothing is done when another process collects for longer than `wait_seconds`.

        Args:
            wait_seconds: how long to wait for another process that collects.

        Raises:
            StorageError: the catalog or the file system cannot tell.
        """
        async with self._collecting(wait_seconds) as is_ours:
            if is_ours:
                await self._look()

    async def _look(self) -> None:
        now, generation = time_by(self._clock), self._generation()
        # First: packs that were emptied at the last look are on the disk until this deletes them.
        await self._empty_garbage()
        packed = await self._packs.size()
        has_collected = packed.packs == 0 or await self._collect_packs()
        if generation is None or generation != self._seen or packed.packs:
            await self._count()
            self._seen = generation
        for _ in range(_ROUNDS):
            packed = await self._packs.size()
            too_much = await self._too_much(packed, has_collected=has_collected)
            if too_much <= 0 or not await self._make_room(too_much, now) or not packed.packs or not has_collected:
                break
            has_collected = await self._collect_packs()
        for _ in range(_ROUNDS):
            if not has_collected or not await self._has_packs_in_the_way():
                break
            has_collected = await self._collect_packs()
        await self._collector.sweep(now)
        await self._empty_garbage()

    async def _empty_garbage(self) -> None:
        now = time_by(self._clock)
        await self._collector.empty_garbage(now)
        self._packs.note_deleted(now)

    async def _too_much(self, packed: PackedSize, *, has_collected: bool) -> int:
        """How many bytes must go. Packs count with all they have where they cannot be written anew."""
        free = await self._free_bytes()
        taken = packed.packs
        if has_collected:
            taken, free = packed.needed, free + packed.packs - packed.needed + packed.leaving
        return excess(self._size - packed.sent + taken, self._limits, free)

    async def _has_packs_in_the_way(self) -> bool:
        """Whether there would be enough room if packs were written anew."""
        packed = await self._packs.size()
        taken, free = self._size - packed.sent + packed.packs, await self._free_bytes() + packed.leaving
        return packed.packs > packed.needed and excess(taken, self._limits, free) > 0

    async def _collect_packs(self) -> bool:
        """Collect packs; returns False when there was no room for that."""
        try:
            await self._packs.collect()
        except StorageError as error:
            self._warning.say("cannot write packs anew: %s", error)
            # Packs of which nothing is needed have gone before that, and are not counted as leaving.
            await self._empty_garbage()
            return False
        return True

    async def _count(self) -> None:
        size, packed = await self._index.size(None), await self._packs.size()
        self._size = size.size
        self._counters.blobs.set(size.objects)
        self._counters.bytes.set(size.size - packed.sent + packed.packs)

    async def _make_room(self, too_much: int, now: Timestamp) -> bool:
        """Evict so many bytes of files as they are sent; returns whether anything went."""
        # Objects that were asked for just now must not be among the longest unused.
        await self._uses.flush()
        await make_room([(self._collector, scope) for scope in REPLACEABLE], too_much, now)
        has_evicted = False
        for scope in REPLACEABLE:
            removed = await self._collector.remove(scope, now, now)
            self._counters.evicted_blobs.add(removed.removed)
            self._counters.evicted_bytes.add(removed.removed_size)
            if removed.removed:
                has_evicted = True
                _log.info("evicted %d files, %d bytes", removed.removed, removed.removed_size)
        await self._empty_garbage()
        await self._count()
        return has_evicted
