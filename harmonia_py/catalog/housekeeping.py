"""The background work for one directory, done by one of the processes that share it: make room, delete garbage."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.collection import Collecting
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.objects import ObjectIndex
from harmonia_py.catalog.quota import Limits, excess
from harmonia_py.catalog.rooms import REPLACEABLE
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged

_log = logging.getLogger(__name__)

# Free space is cheap to ask for. Other programs fill the disk as well.
_CHECK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class EvictionCounters(Counters):
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


class Housekeeping:
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
    ) -> None:
        self._collector = collector
        self._index = index
        self._uses = uses
        self._limits = limits
        self._collecting = collecting
        self._free_bytes = free_bytes
        self._generation = generation
        self._counters = counters
        self._seen: int | None = None

    async def run(self) -> None:
        """Look every ten seconds, until the caller cancels it."""
        while True:
            try:
                await self.look()
            except StorageError as error:
                _log.warning("cannot evict: %s", error)
            await asyncio.sleep(_CHECK_SECONDS)

    async def look(self) -> None:
        """Count, when something has changed, and make room when there is not enough; delete what is garbage.

        Nothing is done while another process is at it.

        Raises:
            StorageError: the catalog or the file system cannot tell.
        """
        async with self._collecting(0.0) as is_ours:
            if is_ours:
                await self._look()

    async def _look(self) -> None:
        now, generation = Timestamp(int(time.time())), self._generation()
        if generation is None or generation != self._seen:
            await self._count()
            self._seen = generation
        too_much = excess(int(self._counters.bytes.value), self._limits, await self._free_bytes())
        if too_much > 0:
            await self._make_room(too_much, now)
        await self._collector.sweep(now)
        await self._collector.empty_garbage(now)

    async def _count(self) -> None:
        size = await self._index.size(None)
        self._counters.blobs.set(size.objects)
        self._counters.bytes.set(size.size)

    async def _make_room(self, too_much: int, now: Timestamp) -> None:
        # Objects that were asked for just now must not be among the longest unused.
        await self._uses.flush()
        await self._collector.make_room(REPLACEABLE, too_much, now)
        for scope in REPLACEABLE:
            removed = await self._collector.remove(scope, now, now)
            self._counters.evicted_blobs.add(removed.removed)
            self._counters.evicted_bytes.add(removed.removed_size)
            if removed.removed:
                _log.info("evicted %d files, %d bytes", removed.removed, removed.removed_size)
        await self._count()
