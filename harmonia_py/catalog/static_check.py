"""The check of static sides: a narinfo for each path that readers see, and its listing.

A listing beside a narinfo belongs to it: both are written and deleted under the key of the narinfo. So is the
narinfo of a path that is made of chunks, which lies elsewhere.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, CacheRow, time_by
from harmonia_py.catalog.fsck_findings import Fault, Finding, FsckPorts
from harmonia_py.catalog.objects import DocumentKind, StoredObject
from harmonia_py.catalog.paging import pages_of, rows_of
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.nix.store_path import HashPart

_CHUNKED: Final = "chunked"
_OF_PATH: Final = re.compile(rf"([^/]+)/(?:([0-9a-z]{{32}})\.(?:narinfo|ls)|{_CHUNKED}/([0-9a-z]{{32}}))", re.ASCII)


class StaticCheck(Struct, eq=False):
    """Holds the static sides of all caches against the catalog.

    Attributes:
        ports: the catalog.
        blobs: the files.
        repairs: whether faults are put right.
        young: seconds within which a published path's files may be on their way.
        clock: seconds since the epoch.
    """

    ports: FsckPorts
    blobs: BlobStore
    repairs: bool
    young: float
    clock: Callable[[], float]
    _caches: dict[CacheName, CacheRow | None] = {}

    async def stale(self, key: str) -> Finding | None:
        """A finding if no reader of the cache sees the path of a narinfo or listing; else None."""
        match = _OF_PATH.fullmatch(key)
        assert match is not None
        row = await self._row(CacheName(match[1]))
        hash_part = HashPart(match[2] or match[3])
        # What belonged to a cache that is deleted goes with it.
        if row is None or await self.ports.objects.find(row.id, hash_part) is not None:
            return None
        return Finding(Fault.STALE_STATIC, key, "", await self._renew(row.id, [hash_part]))

    async def check(self) -> AsyncIterator[Finding]:
        """The findings of files that are missing, so that other programs lack a path."""
        async for row in rows_of(self.ports.caches.page, lambda row: row.name):
            async for finding in self._check(row):
                yield finding

    async def _check(self, row: CacheRow) -> AsyncIterator[Finding]:
        async for page in pages_of(partial(self.ports.index.page, row.id), lambda stored: stored.hash_part):
            old = self.clock() - self.young
            objects = [one for one in page if one.pushed <= old]
            for one, key in zip(objects, await asyncio.gather(*(self._lacking(row, o) for o in objects)), strict=True):
                if key is not None:
                    path = one.path_info.store_path
                    yield Finding(Fault.NO_STATIC, key, path, await self._renew(row.id, [path.hash_part]))

    async def _lacking(self, row: CacheRow, stored: StoredObject) -> BlobKey | None:
        """The key of the first file of a path that is missing; None when there is none."""
        hash_part = stored.hash_part
        if stored.file.is_chunked:
            key = chunked_key(row.name, hash_part)
            return key if await self.blobs.metadata(key) is None else None
        narinfo, listing = (BlobKey(f"{row.name}/{hash_part}.{suffix}") for suffix in ("narinfo", "ls"))
        if await self.blobs.metadata(narinfo) is None:
            return narinfo
        if await self.blobs.metadata(listing) is not None:
            return None
        document = await self.ports.objects.document(row.id, DocumentKind.LISTING, hash_part)
        return None if document is None else listing

    async def _renew(self, cache: CacheId, hash_parts: Sequence[HashPart]) -> str | None:
        if not self.repairs:
            return None
        await self.ports.repairs.renew_static(cache, hash_parts, now=time_by(self.clock))
        return "the server puts it right"

    async def _row(self, name: CacheName) -> CacheRow | None:
        if name not in self._caches:
            self._caches[name] = await self.ports.caches.find(name)
        return self._caches[name]


def chunked_key(cache: CacheName, hash_part: HashPart) -> BlobKey:
    """The key of the narinfo of a path that is made of chunks, for `fsck --rebuild`.

    It has no name of a narinfo, because other programs could not read the file that it leads to.
    """
    return BlobKey(f"{cache}/{_CHUNKED}/{hash_part}")


def path_of_narinfo(key: str) -> tuple[CacheName, HashPart] | None:
    """The cache and the path of which a blob is the narinfo; None when it is none."""
    match = _OF_PATH.fullmatch(key)
    if match is None or key.endswith(".ls"):
        return None
    return CacheName(match[1]), HashPart(match[2] or match[3])


def is_of_path(key: str) -> bool:
    """Whether a blob is the narinfo or the listing of a path."""
    return _OF_PATH.fullmatch(key) is not None


def key_in_catalog(key: str) -> str:
    """The key under which the catalog may have a blob."""
    match = _OF_PATH.fullmatch(key)
    return key if match is None else f"{match[1]}/{match[2] or match[3]}.narinfo"
