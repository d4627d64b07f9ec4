"""The background work for one directory, done by one of the processes that share it: make room, delete garbage."""

import asyncio
import logging
import time
from collections.abc import Callable

from msgspec import Struct, field

from harmonia_py.catalog.caches import Timestamp, time_by
from harmonia_py.catalog.collector import make_room
from harmonia_py.catalog.packs import PackedSize
from harmonia_py.catalog.quota import Limits, excess
from harmonia_py.catalog.rooms import CHECK_SECONDS, ROUNDS, WAIT_SECONDS, Room
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)


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


class ReplaceableHousekeeping(Struct, eq=False):
    """Looks after one directory of kept files: evicts, and deletes what no row names.

    Attributes:
        room: the directory; all of its caches go without grace.
        limits: of the directory.
        counters: are kept up to date.
        clock: seconds since the epoch.
    """

    room: Room
    limits: Limits
    counters: EvictionCounters
    clock: Callable[[], float] = time.time
    _warning: RareWarning = field(default_factory=lambda: RareWarning(_log))
    # At the last count.
    _size: int = 0
    _packed: PackedSize = PackedSize()

    async def run(self) -> None:
        """Look every ten seconds, until the caller cancels it."""
        while True:
            try:
                await self.look(WAIT_SECONDS)
            except StorageError as error:
                _log.warning("cannot evict: %s", error)
            await asyncio.sleep(CHECK_SECONDS)

    async def look(self, wait_seconds: float = 0.0) -> None:
        """Count, and make room when there is not enough; delete what is garbage.

        Nothing is done when another process collects for longer than `wait_seconds`.

        Args:
            wait_seconds: how long to wait for another process that collects.

        Raises:
            StorageError: the catalog or the file system cannot tell.
        """
        async with self.room.collecting(wait_seconds) as is_ours:
            if is_ours:
                await self._look()

    async def _look(self) -> None:
        now = time_by(self.clock)
        # First: packs that were emptied at the last look are on the disk until this deletes them.
        await self._empty_garbage()
        has_collected = self._packed.packs == 0 or await self._collect_packs()
        for _ in range(ROUNDS):
            too_much = await self._too_much(has_collected=has_collected)
            if too_much <= 0 or not await self._make_room(too_much, now) or not self._packed.packs or not has_collected:
                break
            has_collected = await self._collect_packs()
        for _ in range(ROUNDS):
            if not has_collected or not await self._has_packs_in_the_way():
                break
            has_collected = await self._collect_packs()
        await self.room.collector.sweep(now)
        await self._empty_garbage()

    async def _empty_garbage(self) -> None:
        await self.room.empty_garbage(time_by(self.clock))
        await self._count()

    async def _too_much(self, *, has_collected: bool) -> int:
        """How many bytes must go. Packs count with all they have where they cannot be written anew."""
        packed, free = self._packed, await self.room.free_bytes()
        taken = packed.packs
        if has_collected:
            taken, free = packed.needed, free + packed.packs - packed.needed + packed.leaving
        return excess(self._size - packed.sent + taken, self.limits, free)

    async def _has_packs_in_the_way(self) -> bool:
        """Whether there would be enough room if packs were written anew."""
        packed = self._packed
        taken, free = self._size - packed.sent + packed.packs, await self.room.free_bytes() + packed.leaving
        return packed.packs > packed.needed and excess(taken, self.limits, free) > 0

    async def _collect_packs(self) -> bool:
        """Collect packs; returns False when there was no room for that."""
        try:
            await self.room.packs.collect()
        except StorageError as error:
            self._warning.say("cannot write packs anew: %s", error)
            # Packs of which nothing is needed have gone before that, and are not counted as leaving.
            await self._empty_garbage()
            return False
        await self._count()
        return True

    async def _count(self) -> None:
        """Ask what there is, after a step that changes it."""
        size, packed = await self.room.sizes.size(None), await self.room.packs.size()
        self._size, self._packed = size.size, packed
        self.counters.blobs.set(size.objects)
        self.counters.bytes.set(size.size - packed.sent + packed.packs)

    async def _make_room(self, too_much: int, now: Timestamp) -> bool:
        """Evict so many bytes of files as they are sent; returns whether anything went."""
        # Objects that were asked for just now must not be among the longest unused.
        await self.room.uses.flush()
        scopes, collector, has_evicted = await self.room.scopes(), self.room.collector, False
        await make_room([(collector, scope) for scope in scopes], too_much, now)
        for scope in scopes:
            removed = await collector.remove(scope, now, now)
            self.counters.evicted_blobs.add(removed.removed)
            self.counters.evicted_bytes.add(removed.removed_size)
            if removed.removed:
                has_evicted = True
                _log.info("evicted %d files, %d bytes", removed.removed, removed.removed_size)
        await self._empty_garbage()
        return has_evicted
