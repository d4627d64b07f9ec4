"""Every kept file is read again, all the time and slowly, so that rot on a disk is found before a client meets it.

The file whose last check is the longest ago comes next, at a pace that reads each once in a period. The catalog knows
when each was read, so a restart goes on where it was.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import time_by
from harmonia_py.catalog.file_checks import DueFile, FileChecks, Health
from harmonia_py.catalog.nars import NarFile
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digests, lasting_fault
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged

_log = logging.getLogger(__name__)

NoteFault = Callable[[NarFile, str], Awaitable[object]]
"""Isolates a file whose bytes have changed, for a reason in words."""

HASTE: Final = 1.1
"""A little faster than the period asks for: reading takes time as well."""
# Files that became due while the service did not run are read so many times as fast.
_CATCHING_UP: Final = 4.0
# A single file is read faster than the average pace, but never at the disk's full speed: clients come first.
_LEAST_RATE: Final = 16 * 1024 * 1024
_BURST: Final = 8.0
LOOK_SECONDS: Final = 300.0
"""Between two looks at the state of all files, or whether there is any."""
REST_SECONDS: Final = 60.0
"""How long a catalog that failed is left alone."""
_BATCH: Final = 16


class ScrubCounters(Counters, frozen=True):
    """Files read since the start, and the present state.

    Attributes:
        files: files that were read.
        bytes: of the files that were read.
        faults: files whose bytes were missing or had changed.
        age: the oldest of all last checks, in seconds before now.
        quarantined: files that are quarantined now.
        hidden: paths that are hidden now because of these.
    """

    files: Counter = counted(families.kept.SCRUBBED_FILES)
    bytes: Counter = counted(families.kept.SCRUBBED_BYTES)
    faults: Counter = counted(families.kept.SCRUB_FAULTS)
    age: Gauge = gauged(families.kept.SCRUB_AGE)
    quarantined: Gauge = gauged(families.kept.QUARANTINED)
    hidden: Gauge = gauged(families.kept.HIDDEN)


class Scrub(Struct, eq=False):
    """Reads every kept file once in each period. Of all processes that share a catalog, one runs it.

    Attributes:
        checks: knows when files were read.
        digests: reads files.
        note_fault: is told of each file that is wrong.
        counters: of files, and of their state.
        period: seconds in which each file is read once; None: only the state is looked at.
        clock: seconds since the epoch.
    """

    checks: FileChecks
    digests: Digests
    note_fault: NoteFault
    counters: ScrubCounters
    period: float | None
    clock: Callable[[], float] = time.time
    _health: Health | None = None

    async def run(self) -> None:
        """Read files, until the caller cancels it."""
        look_at = step_at = time.monotonic()
        while True:
            try:
                if time.monotonic() >= look_at:
                    await self.look()
                    look_at = time.monotonic() + LOOK_SECONDS
                if time.monotonic() >= step_at:
                    step_at = time.monotonic() + await self.step()
            except StorageError as error:
                _log.warning("what is kept is not checked for now: %s", error)
                look_at = step_at = time.monotonic() + REST_SECONDS
            await asyncio.sleep(max(0.0, min(look_at, step_at) - time.monotonic()))

    async def look(self) -> None:
        """Set the gauges of the present state.

        Raises:
            StorageError: the catalog cannot tell.
        """
        health = self._health = await self.checks.health()
        self.counters.quarantined.set(health.quarantined)
        self.counters.hidden.set(health.hidden)
        self.counters.age.set(0 if health.oldest is None else max(0, int(self.clock()) - health.oldest))

    async def step(self) -> float:
        """Read the files that come next; returns the seconds until the following ones.

        Raises:
            StorageError: the catalog cannot tell, or the disk cannot be read.
        """
        due = await self.checks.due(_BATCH)
        if self._health is None:
            await self.look()
        if self.period is None or self._health is None or not due:
            return LOOK_SECONDS
        began, pace = time.monotonic(), self._pace(self._health, due[0])
        right, read = [], 0
        for one in due:
            if await self._is_right(one.file, max(_LEAST_RATE, _BURST * pace)):
                right.append(one.file.file_hash)
            read += one.file.file_size
            if read > pace * LOOK_SECONDS:
                break
        await self.checks.passed(right, now=time_by(self.clock))
        return max(0.0, read / pace - (time.monotonic() - began))

    def _pace(self, health: Health, oldest: DueFile) -> float:
        """The pace, in bytes a second."""
        assert self.period is not None
        haste = _CATCHING_UP if oldest.checked < self.clock() - self.period else HASTE
        return haste * max(1, health.size) / self.period

    async def _is_right(self, file: NarFile, rate: float) -> bool:
        self.counters.files.add()
        self.counters.bytes.add(file.file_size)
        key = BlobKey(file.blob_key)
        fault = await lasting_fault(self.digests, key, file.file_hash, file.file_size, rate=rate)
        if fault is None:
            return True
        self.counters.faults.add()
        await self.note_fault(file, fault)
        return False
