"""Every log and listing that is kept in a file is read again in each period, as NARs are (`scrub`).

They are read in the order of their names, a few at a time, and the catalog knows how far that has come, so a restart
goes on where it was. A document whose bytes were read and are wrong is forgotten: its clients are told that there is
none, which is right for each of them, and the next one that is pushed or fetched takes its place. One that is missing
keeps its row and is counted, for a volume or a bucket may come back with all of them; `fsck --repair` forgets those.
The listing of a pushed path is made again of its NAR instead, when that is there.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from msgspec import Struct, field

from harmonia_py.catalog.caches import CacheId, time_by
from harmonia_py.catalog.documents import CacheDocument, DocumentChecks
from harmonia_py.catalog.objects import DocumentKind
from harmonia_py.catalog.scrub import HASTE, LOOK_SECONDS, REST_SECONDS, ScrubCounters
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import MISSING, Digests, lasting_fault
from harmonia_py.errors import HarmoniaError, StorageError
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

_RATE: Final = 16 * 1024 * 1024
_BATCH: Final = 16
# Documents whose turn comes within this time are read together.
_TOGETHER_SECONDS: Final = 60.0


DiscardBlob = Callable[[BlobKey], Awaitable[None]]
"""Is given the key of a document that was forgotten."""


async def leave(_key: BlobKey) -> None:
    """Leave the bytes to the collector."""


MakeListing = Callable[[CacheId, HashPart], Awaitable[bool]]
"""Makes the listing of a path again; whether that was possible."""


async def make_none(_cache: CacheId, _hash_part: HashPart) -> bool:
    """Make no listing."""
    return False


class DocumentScrub(Struct, eq=False):
    """Reads every document in a file once in each period. Of all processes that share a catalog, one runs it.

    Attributes:
        checks: knows the documents.
        digests: reads files.
        counters: of files.
        period: seconds in which each document is read once.
        discard: is given the key of a document that was forgotten, where a file is served without a row as well.
        make_listing: makes the listing of a pushed path again.
        clock: seconds since the epoch.
    """

    checks: DocumentChecks
    digests: Digests
    counters: ScrubCounters
    period: float
    discard: DiscardBlob = leave
    make_listing: MakeListing = make_none
    clock: Callable[[], float] = time.time
    _missing: RareWarning = field(default_factory=lambda: RareWarning(_log))

    async def run(self) -> None:
        """Read documents, until the caller cancels it."""
        while True:
            try:
                rest = await self.step()
            except StorageError as error:
                _log.warning("logs and listings are not checked for now: %s", error)
                rest = REST_SECONDS
            await asyncio.sleep(rest)

    async def step(self) -> float:
        """Read the documents that come next; returns the seconds until the following ones.

        Raises:
            StorageError: the catalog cannot tell, or the disk cannot be read.
        """
        began = time.monotonic()
        due = await self.checks.due(_BATCH)
        if not due:
            await self.checks.passed(None)
            due = await self.checks.due(_BATCH)
        if not due:
            return min(LOOK_SECONDS, self.period)
        seconds_each = self.period / (HASTE * max(1, await self.checks.count()))
        some = due[: max(1, int(_TOGETHER_SECONDS / seconds_each))]
        await self._tell([one for one in some if await self._check(one) == MISSING])
        await self.checks.passed(some[-1])
        return max(0.0, len(some) * seconds_each - (time.monotonic() - began))

    async def _check(self, one: CacheDocument) -> str | None:
        """Read a document, and forget it when it is wrong; returns its fault in words, None when it is right."""
        assert one.document.blob_key is not None
        key = BlobKey(one.document.blob_key)
        self.counters.files.add()
        self.counters.bytes.add(one.document.size)
        fault = await lasting_fault(self.digests, key, None, one.document.size, rate=_RATE)
        if fault is None:
            return None
        if await self._is_made_again(one):
            self.counters.faults.add()
            _log.error("%s: %s; it was made again of its NAR", key, fault)
            return None
        if fault == MISSING:
            return fault
        if await self.checks.drop(one, fault, now=time_by(self.clock)):
            await self.discard(key)
            self.counters.faults.add()
            _log.error("%s: %s; it is not shown until it is pushed or fetched again", key, fault)
        return fault

    async def _is_made_again(self, one: CacheDocument) -> bool:
        """Make a listing again; False when that is impossible, also when its NAR cannot be read now.

        The documents behind it have their turn all the same, and the NAR is not read again before the next period.
        """
        if one.document.kind is not DocumentKind.LISTING:
            return False
        try:
            return await self.make_listing(one.cache, HashPart(one.document.name))
        except HarmoniaError as error:
            _log.warning("%s cannot be made again of its NAR: %s", one.document.blob_key, error)
            return False

    async def _tell(self, missing: Collection[CacheDocument]) -> None:
        """Count the documents that are missing and that the catalog still has, and say so once a minute at most."""
        if not missing:
            return
        due = await self.checks.due(_BATCH)
        lost = [one for one in due if one in missing]
        if lost:
            self.counters.faults.add(len(lost))
            self._missing.say(
                "logs or listings are missing, %s among them; they are served when they are there again, and "
                "harmonia-py fsck --repair forgets those that stay away",
                lost[0].document.blob_key,
            )
