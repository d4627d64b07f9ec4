"""The job that makes chunks of what has not been asked for lately, and looks after packs, at a bounded rate."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.catalog.caches import CHUNKS, CacheId, Timestamp, time_by
from harmonia_py.catalog.collection import Collecting, Scope
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.chunks.catalog import Chunks, DueFile, DuePlace
from harmonia_py.chunks.pack_collector import PacksCollected
from harmonia_py.chunks.work import ChunkWork, LastLook, Packed
from harmonia_py.errors import HarmoniaError, StorageError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged

_log = logging.getLogger(__name__)

_SECONDS: Final = 60.0
# How long a pass goes on; the collector of paths waits meanwhile.
_PASS_SECONDS: Final = 15.0
# The collector of paths has its turn first.
_WAIT_SECONDS: Final = 30.0
# Between two looks, in a pause, whether the settings of caches have changed; a look compares a number.
_CHANGE_SECONDS: Final = 2.0
# Objects that are looked at together.
_LOOKED_AT: Final = 500
# How long after a look at all objects they are looked at again: those that are asked for less become due meanwhile.
_ROUND_SECONDS: Final = 6 * 3600.0
# How far waiting objects are counted: that takes a tenth of a second for each cache.
_MOST_WAITING: Final = 100_000
# A server that has nothing to do does not wake the disk each minute to say so.
_NOTED_SECONDS: Final = 600


MakeChunks = Callable[[Sequence[DueFile], float], Awaitable[tuple[int, Packed]]]
"""Makes chunks of files until a time; returns how many files it looked at, and the figures."""


class DeduplicationCounters(Counters, frozen=True):
    """The figures of chunks, and of the job, of one storage.

    Attributes:
        files: files that are made of chunks.
        former_bytes: bytes that these files took before.
        packs: packs that there are.
        used_bytes: bytes of packs that are needed.
        unused_bytes: bytes of packs that are not needed.
        made: files that became chunks since the start.
        nar_bytes: bytes of the NARs of these.
        left: files that stay as they are.
        errors: passes that could not go on, and packs that could not be read.
        waiting: objects that are still to be looked at.
        ended: when the last pass ended, in seconds since the epoch.
    """

    files: Gauge = gauged(families.chunks.CHUNKED_FILES)
    former_bytes: Gauge = gauged(families.chunks.CHUNKED_BYTES)
    packs: Gauge = gauged(families.chunks.PACKS)
    used_bytes: Gauge = gauged(families.chunks.PACK_BYTES, "used")
    unused_bytes: Gauge = gauged(families.chunks.PACK_BYTES, "unused")
    made: Counter = counted(families.chunks.DEDUPLICATED_FILES, "chunks")
    left: Counter = counted(families.chunks.DEDUPLICATED_FILES, "left")
    nar_bytes: Counter = counted(families.chunks.DEDUPLICATED_BYTES)
    errors: Counter = counted(families.chunks.DEDUPLICATION_ERRORS)
    waiting: Gauge = gauged(families.chunks.DEDUPLICATION_WAITING)
    ended: Gauge = gauged(families.chunks.DEDUPLICATION_TIME)


class Deduplication(Struct, eq=False):
    """Makes chunks of files, and looks after packs. Of the processes that share a catalog, one runs it.

    Attributes:
        chunks: tells which files are due.
        work: has the figures, and is told of passes.
        scopes: gives the caches of the catalog.
        make_chunks: makes chunks of files.
        collect_packs: makes a pass over packs.
        uses: last uses that this process has not written to the catalog yet.
        collecting: makes this process the one that collects.
        counters: the figures.
        state: a value that is another one after the settings of caches may have changed.
        rate: bytes of NARs a second that become chunks, in the mean.
        clock: seconds since the epoch.
    """

    chunks: Chunks
    work: ChunkWork
    scopes: Callable[[], Awaitable[Sequence[Scope]]]
    make_chunks: MakeChunks
    collect_packs: Callable[[], Awaitable[PacksCollected]]
    uses: LastUses
    collecting: Collecting
    counters: DeduplicationCounters
    state: Callable[[], object]
    rate: float = 32 * 1024 * 1024
    clock: Callable[[], float] = time.time
    _after: dict[CacheId, DuePlace | None] = {}
    _again_at: float = 0.0
    _wanted: object = None

    async def run(self) -> None:
        """Make pass after pass, until the caller cancels it."""
        with self.counters.shown_meanwhile():
            while True:
                wait, state = _SECONDS, self.state()
                try:
                    nar_bytes = await self.look()
                    if nar_bytes:
                        # A pass runs at full speed; the pause after it brings the mean down to the rate.
                        wait = max(1.0, nar_bytes / self.rate)
                except HarmoniaError as error:
                    _log.warning("nothing is made into chunks for now: %s", error)
                    self.counters.errors.add()
                    with suppress(StorageError):
                        last = await self.work.last() or LastLook()
                        await self.work.note(replace(last, failed=time_by(self.clock), error=str(error)))
                await self._pause(wait, state)

    async def _pause(self, seconds: float, state: object) -> None:
        """Wait; less long when caches have changed their settings for this job since `state` was taken."""
        end = time.monotonic() + seconds
        while True:
            await asyncio.sleep(max(0.0, min(end - time.monotonic(), _CHANGE_SECONDS)))
            if time.monotonic() >= end:
                return
            now = self.state()
            if now != state:
                with suppress(HarmoniaError):
                    if _wanted(await self.scopes()) != self._wanted:
                        return
                    state = now

    async def look(self) -> int:
        """One pass; returns the bytes of the NARs that became chunks.

        Raises:
            StorageError: the catalog cannot tell, or nothing can be written; what was done before stays done.
        """
        await self.uses.flush()
        if not await self._has_work():
            await self._count(Packed(), 0)
            return 0
        async with self.collecting(_WAIT_SECONDS) as is_ours:
            if not is_ours:
                return 0
            collected = await self.collect_packs()
            if collected.removed:
                _log.info(
                    "%d packs went, %d bytes; %d bytes of them were written anew",
                    *(collected.removed, collected.removed_bytes, collected.written_bytes),
                )
            scopes = await self.scopes()
            done = await self._pack(scopes)
            if done.files:
                _log.info(
                    "%d files with %d bytes are made of chunks now, %d bytes of which are new",
                    *(done.files, done.file_bytes, done.new_bytes),
                )
            await self._count(done, await self._waiting(scopes))
            return done.nar_bytes

    async def _has_work(self) -> bool:
        """Whether a cache wants chunks, or there are packs; otherwise the storage need not be there for this job."""
        scopes = await self.scopes()
        if any(scope.settings.deduplicate == CHUNKS for scope in scopes) or (await self.work.figures()).packs:
            return True
        self._wanted = _wanted(scopes)
        return False

    async def _count(self, done: Packed, waiting: int) -> None:
        """Bring the figures up to date after a pass."""
        counters, figures, now = self.counters, await self.work.figures(), time_by(self.clock)
        counters.made.add(done.files)
        counters.nar_bytes.add(done.nar_bytes)
        counters.left.add(done.left)
        counters.files.set(figures.files)
        counters.former_bytes.set(figures.former_size)
        counters.packs.set(figures.packs)
        counters.used_bytes.set(figures.used_size)
        counters.unused_bytes.set(figures.pack_size - figures.used_size)
        counters.waiting.set(waiting)
        counters.ended.set(now)
        last = await self.work.last() or LastLook()
        has_failed = last.failed is not None and (last.ended is None or last.failed >= last.ended)
        if has_failed or waiting != last.waiting or last.ended is None or now >= last.ended + _NOTED_SECONDS:
            await self.work.note(replace(last, ended=now, waiting=waiting))

    async def _waiting(self, scopes: Sequence[Scope]) -> int:
        waiting = 0
        for scope in scopes:
            if scope.settings.deduplicate == CHUNKS and waiting < _MOST_WAITING:
                place = self._unused_since(scope), self._after.get(scope.cache)
                waiting += await self.work.waiting(scope.cache, *place, _MOST_WAITING - waiting)
        return waiting

    def _unused_since(self, scope: Scope) -> Timestamp:
        return Timestamp(time_by(self.clock) - scope.settings.deduplicate_after)

    async def _pack(self, scopes: Sequence[Scope]) -> Packed:
        wanted, self._wanted = self._wanted, _wanted(scopes)
        scopes = [scope for scope in scopes if scope.settings.deduplicate == CHUNKS]
        caches = [scope.cache for scope in scopes]
        until = time.monotonic() + _PASS_SECONDS
        done = Packed()
        # From the beginning: a file that a cache wanted whole until now may lie before the place that was reached.
        if wanted != self._wanted or time.monotonic() > self._again_at:
            self._after, self._again_at = {}, time.monotonic() + _ROUND_SECONDS
            await self.work.count_anew()
        for scope in scopes:
            while time.monotonic() < until:
                after = self._after.get(scope.cache)
                due = await self.chunks.due(scope.cache, caches, self._unused_since(scope), after, _LOOKED_AT)
                looked_at, packed = await self.make_chunks(due.files, until)
                done += packed
                if looked_at < len(due.files):
                    break  # the others are found again
                self._after[scope.cache] = due.after
                if due.is_end:
                    break
        return done


def _wanted(scopes: Sequence[Scope]) -> dict[CacheId, tuple[str, int]]:
    """The settings of all caches for this job."""
    return {scope.cache: (scope.settings.deduplicate, scope.settings.deduplicate_after) for scope in scopes}
