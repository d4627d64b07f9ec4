"""The catalog and the storage held against each other: rows without bytes, bytes without rows, and wrong bytes.

It runs beside a running server. It changes only what the server itself would change, by the same transactions: files
are quarantined, and keys are listed for the collector, which deletes bytes that no row names at that moment.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from harmonia_py.catalog.caches import time_by
from harmonia_py.catalog.documents import CacheDocument
from harmonia_py.catalog.fsck_findings import Fault, Finding, FsckPorts
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.paging import batches_of, pages_of, rows_of
from harmonia_py.catalog.static_check import StaticCheck, is_of_path, key_in_catalog
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.fsck import MISSING, Digests, fault_of, lasting_fault

_PAGE: Final = 256
# A file that came within the hour may be on its way into the catalog: the next run looks at it.
_YOUNG_SECONDS: Final = 3600.0
_CACHE_INFO: Final = "/nix-cache-info"


Isolate = Callable[[NarFile, str], Awaitable[str]]
"""Isolates a lost file, for a reason in words; returns in words what was done."""


class Fsck:
    """One check of one storage.

    Args:
        ports: its catalog.
        blobs: its files.
        digests: reads them.
        isolate: is told of lost files; None when nothing is to be changed.
        hashes: whether every file is read; otherwise only those that were found to be wrong before.
        names_later: whether the server names files that no row names, instead of having them deleted.
        report: called with the number of bytes that were checked since the last call.
        clock: seconds since the epoch.

    Attributes:
        files: number of files that were checked.
    """

    def __init__(
        self,
        ports: FsckPorts,
        blobs: BlobStore,
        digests: Digests,
        isolate: Isolate | None,
        *,
        hashes: bool,
        names_later: bool,
        report: Callable[[int], object] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.files = 0
        self._ports = ports
        self._blobs = blobs
        self._digests = digests
        self._hashes = hashes
        self._isolate = isolate
        self._names_later = names_later
        self._report = report
        self._clock = clock
        self._static = StaticCheck(ports, blobs, repairs=isolate is not None, young=_YOUNG_SECONDS, clock=clock)

    async def run(self) -> AsyncGenerator[Finding, None]:
        """Check everything, and give each finding when it is made.

        Raises:
            StorageError: the catalog or the storage cannot be read.
        """
        for part in (self._check_quarantined, self._check_files, self._check_documents, self._check_blobs):
            async for finding in part():
                yield finding
        if not self._names_later:
            async for finding in self._static.check():
                yield finding
        async for finding in self._check_totals():
            yield finding

    async def _check_totals(self) -> AsyncIterator[Finding]:
        wrong = await self._ports.repairs.wrong_totals()
        done = None
        if wrong and self._isolate is not None:
            await self._ports.repairs.count_anew()
            done = "counted anew"
        for one in wrong:
            of = f"{'all caches' if one.cache is None else f'cache {one.cache}'}, {one.state}"
            told, counted = ("{} with {} bytes".format(*pair) for pair in (one.told, one.counted))
            yield Finding(Fault.TOTAL, of, f"{told}, where counting says {counted}", done)

    async def _check_files(self) -> AsyncIterator[Finding]:
        async for page in pages_of(self._ports.checks.page, lambda file: file.file_hash):
            for file, fault in zip(page, await self._faults(page), strict=True):
                self._report(file.file_size)
                if fault is None:
                    continue
                done = None if self._isolate is None else await self._isolate(file, fault)
                yield Finding(Fault.MISSING if fault == MISSING else Fault.WRONG, file.blob_key, fault, done)
            self.files += len(page)

    async def _faults(self, files: Sequence[NarFile]) -> Sequence[str | None]:
        faults = list(await asyncio.gather(*map(self._look, files)))
        if self._hashes:
            right = [file.file_hash for file, fault in zip(files, faults, strict=True) if fault is None]
            await self._ports.checks.passed(right, now=time_by(self._clock))
        return faults

    async def _look(self, file: NarFile) -> str | None:
        """The fault of a file, in words; None when it is right."""
        key = BlobKey(file.blob_key)
        if self._hashes:
            return await lasting_fault(self._digests, key, file.file_hash, file.file_size)
        # Twice as well.
        for _ in range(2):
            metadata = await self._blobs.metadata(key)
            fault = MISSING if metadata is None else _fault_in(file, metadata)
            if fault is None:
                break
        return fault

    async def _check_quarantined(self) -> AsyncIterator[Finding]:
        async for one in rows_of(self._ports.checks.quarantined, lambda one: one.file.file_hash):
            self.files += 1
            # Read even without `hashes`: its bytes were wrong once.
            digest = await self._digests.digest(BlobKey(one.file.blob_key))
            if fault_of(one.file.file_hash, one.file.file_size, digest) is not None:
                yield Finding(Fault.QUARANTINED, one.file.blob_key, f"{one.reason}; {_told(one.objects)}")
                continue
            done = None
            if self._isolate is not None:
                await self._ports.repairs.restore(one.file.file_hash, now=time_by(self._clock))
                done = "its paths are seen again"
            yield Finding(Fault.RIGHT_AGAIN, one.file.blob_key, _told(one.objects), done)

    async def _check_documents(self) -> AsyncIterator[Finding]:
        async for one in rows_of(self._ports.documents.in_blobs, lambda one: one):
            self.files += 1
            fault = await self._document_fault(one)
            if fault is None:
                continue
            assert one.document.blob_key is not None
            done = None
            if self._isolate is not None:
                if not await self._ports.documents.drop(one, fault, now=time_by(self._clock)):
                    continue  # it went, or came again, in the meantime
                done = "the catalog does not have it any more"
            yield Finding(Fault.DOCUMENT, one.document.blob_key, f"{one.document.name}: {fault}", done)

    async def _document_fault(self, one: CacheDocument) -> str | None:
        """The fault of a document, in words; None when it is right."""
        assert one.document.blob_key is not None
        key = BlobKey(one.document.blob_key)
        if self._hashes:
            return fault_of(None, one.document.size, await self._digests.digest(key))
        return MISSING if await self._blobs.metadata(key) is None else None

    async def _check_blobs(self) -> AsyncIterator[Finding]:
        async for batch in batches_of(self._blobs.list(), _PAGE):
            old = self._clock() - _YOUNG_SECONDS
            async for finding in self._check_named([info.key for info in batch if info.last_used < old]):
                yield finding

    async def _check_named(self, keys: Sequence[BlobKey]) -> AsyncIterator[Finding]:
        # Narinfos that the collector is about to look at are on its list.
        unnamed = await self._ports.repairs.unnamed({key_in_catalog(key) for key in keys})
        strays = []
        for key in sorted(key for key in keys if key_in_catalog(key) in unnamed):
            if is_of_path(key):
                if (finding := await self._static.stale(key)) is not None:
                    yield finding
            elif not _is_cache_info(key):
                strays.append(key)
        done = "the server names it when it starts" if self._names_later else None
        if strays and self._isolate is not None and not self._names_later:
            await self._ports.repairs.discard(strays, garbage_from=time_by(self._clock))
            done = "the server deletes it"
        for key in strays:
            yield Finding(Fault.UNNAMED, key, "", done)


def _fault_in(file: NarFile, metadata: Mapping[str, str]) -> str | None:
    """The fault of a file whose metadata contradict its row, in words; None when they agree."""
    if metadata.get("file_hash", str(file.file_hash)) != str(file.file_hash):
        return f"it was kept with the hash {metadata['file_hash']}, not {file.file_hash}"
    return None


def _is_cache_info(key: str) -> bool:
    return key.endswith(_CACHE_INFO) and key.count("/") == 1


def _told(objects: Sequence[str]) -> str:
    return f"needed by {', '.join(objects)}" if objects else "no path has it"
