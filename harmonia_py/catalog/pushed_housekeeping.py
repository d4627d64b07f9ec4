"""The background work for the caches that are pushed to, done by one process of all that share a catalog.

Pushes that died are swept, objects that nothing keeps are collected, then bytes that no row names. The audit log stays
bounded.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.arrivals import LeftBehind
from harmonia_py.catalog.audit import Audit
from harmonia_py.catalog.cache_gauges import CacheGauges
from harmonia_py.catalog.caches import Caches, Timestamp, time_by
from harmonia_py.catalog.collection import Collected, Collecting, Survey
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.objects import ObjectIndex
from harmonia_py.catalog.passes import Passes
from harmonia_py.catalog.rooms import WAIT_SECONDS
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.cache_labels import MOST_NAMED
from harmonia_py.metrics.counters import Counters, counted, gauged

_log = logging.getLogger(__name__)

AUDIT_SECONDS: Final = 90 * 86_400
"""How far back the audit log goes: CIS Control 8.10 asks for 90 days at least. A team that publishes 10,000 paths a
day has a million entries of about 300 bytes by then; for ever would be as much again every quarter."""

# The shortest period that is measured here is an hour. A pass with nothing to do is two questions for each cache.
_SECONDS: Final = 60.0
_PRUNED: Final = 256
# A server that has nothing to do does not wake the disk each minute to say so.
_NOTED_SECONDS: Final = 600
# Entries of a very long log that are left go in the next pass.
_MOST_PRUNED: Final = 100


class CollectionCounters(Counters, frozen=True):
    """Counters since the start, and the present state, over all caches.

    Attributes:
        swept: pushes that died.
        swept_files: files that these had brought.
        waited: paths whose references never came.
        paths: paths that nothing kept.
        bytes: the size of their files.
        files: files that no cache named any more.
        published: paths that readers see and that are not condemned, now.
        published_bytes: the size of their files.
        condemned: condemned paths, now.
        condemned_bytes: the size of their files.
        waiting: paths whose references are still to come.
        pins: of all caches.
        pinned: paths that a pin names and keeps.
        garbage: files that are still to be deleted, now.
        ended: when the last whole pass ended, in seconds since the epoch.
    """

    swept: Counter = counted(families.pushed.PUSHES_SWEPT)
    swept_files: Counter = counted(families.pushed.PUSHED_FILES_SWEPT)
    waited: Counter = counted(families.pushed.PUSHED_PATHS, "waited_in_vain")
    paths: Counter = counted(families.pushed.COLLECTED_PATHS)
    bytes: Counter = counted(families.pushed.COLLECTED_BYTES)
    files: Counter = counted(families.pushed.COLLECTED_FILES)
    published: Gauge = gauged(families.pushed.KEPT_PATHS, "published")
    published_bytes: Gauge = gauged(families.pushed.KEPT_BYTES, "published")
    condemned: Gauge = gauged(families.pushed.KEPT_PATHS, "condemned")
    condemned_bytes: Gauge = gauged(families.pushed.KEPT_BYTES, "condemned")
    waiting: Gauge = gauged(families.pushed.KEPT_PATHS, "waiting")
    pins: Gauge = gauged(families.pushed.PINS)
    pinned: Gauge = gauged(families.pushed.PINNED_PATHS)
    garbage: Gauge = gauged(families.pushed.GARBAGE_FILES)
    ended: Gauge = gauged(families.pushed.COLLECTION_TIME)


class PushedHousekeeping(Struct, eq=False):
    """Looks after all caches of a catalog: collects, sweeps, and keeps them within their limits.

    Attributes:
        collector: carries decisions out.
        index: tells the sizes of caches.
        survey: tells what is pinned, and what is garbage.
        audit: is kept bounded.
        uses: last uses that this process has not written to the catalog yet.
        left_behind: has files counted that processes left behind.
        passes: is told of each pass.
        collecting: makes this process the one that collects.
        caches: tell what each of them has.
        counters: of what goes.
        gauges: of what each cache has.
        clock: seconds since the epoch.
        seconds: between two passes.
    """

    collector: Collector
    index: ObjectIndex
    survey: Survey
    audit: Audit
    uses: LastUses
    left_behind: LeftBehind
    passes: Passes
    collecting: Collecting
    caches: Caches
    counters: CollectionCounters
    gauges: CacheGauges
    clock: Callable[[], float] = time.time
    seconds: float = _SECONDS
    _noted: float = 0.0

    async def run(self) -> None:
        """Collect every minute, until the caller cancels it."""
        with self.counters.shown_meanwhile():
            try:
                await self._look_again_and_again()
            finally:
                self.gauges.hide()

    async def _look_again_and_again(self) -> None:
        while True:
            try:
                await self.look(WAIT_SECONDS)
            except StorageError as error:
                _log.warning("cannot collect what caches do not need any more: %s", error)
            await asyncio.sleep(self.seconds)

    async def look(self, wait_seconds: float = 0.0) -> Collected | None:
        """One pass over all caches and what they leave, in small transactions; None when another process is at one.

        Args:
            wait_seconds: how long to wait for another process that collects.

        Raises:
            StorageError: the catalog cannot tell; what was done before stays done.
        """
        # Paths that were asked for just now must not be among the longest unused.
        await self.uses.flush()
        async with self.collecting(wait_seconds) as is_ours:
            if not is_ours:
                return None
            now = time_by(self.clock)
            await self.left_behind.count(now)
            done = await self.collector.run(now)
            self._note(done)
            await self._prune(now)
            await self._count(now)
            if done.removed or now >= self._noted + _NOTED_SECONDS:
                await self.passes.note(now, done.removed, done.removed_size)
                self._noted = now
            return done

    async def _prune(self, now: Timestamp) -> None:
        before_ns = (now - AUDIT_SECONDS) * 1_000_000_000
        for _ in range(_MOST_PRUNED):
            if await self.audit.prune(before_ns, _PRUNED) < _PRUNED:
                break

    async def _count(self, now: Timestamp) -> None:
        """Set the gauges of the present state, after a whole pass."""
        counters, size, inventory = self.counters, await self.index.size(None), await self.survey.inventory(now=now)
        self.gauges.show(await self.caches.kept(MOST_NAMED))
        counters.published.set(size.objects - size.condemned)
        counters.published_bytes.set(size.published_size)
        counters.condemned.set(size.condemned)
        counters.condemned_bytes.set(size.condemned_size)
        counters.waiting.set(size.waiting)
        counters.pins.set(inventory.pins)
        counters.pinned.set(inventory.pinned)
        counters.garbage.set(inventory.garbage)
        counters.ended.set(now)

    def _note(self, done: Collected) -> None:
        counters = self.counters
        counters.swept.add(done.swept)
        counters.swept_files.add(done.swept_files)
        counters.waited.add(done.waited)
        counters.paths.add(done.removed)
        counters.bytes.add(done.removed_size)
        counters.files.add(done.deleted)
        if done.swept_files or done.waited:
            _log.info("gave up %d files that were never published, %d paths that waited", done.swept_files, done.waited)
        if done.removed:
            _log.info("collected %d paths, %d bytes", done.removed, done.removed_size)
