"""The catalog of pushed paths made anew from the files alone: narinfos, NARs and logs, as other programs read them.

NARs that are made of chunks are found as well, by their recipes and packs, and by narinfos that lie apart.

Every NAR is read once, held against its name and its narinfos, and its listing and debug files are found again. A path
is published as a push publishes it, after its references. Paths that the catalog has are left alone, so a rebuild may
be cut off and begun again, also while a server runs. Wrong files and narinfos are not deleted. Files that were read
before a cut, paths that wait for a wrong one, and chunks that no path needs stay for a week: within that time a file
may be put right, and the rebuild begun again.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct, field

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheRow, Caches, CacheSettings, Timestamp
from harmonia_py.catalog.nars import PACKS, RECIPES
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.catalog.static_check import chunked_key, path_of_narinfo
from harmonia_py.catalog.uploads import Session
from harmonia_py.chunks.rebuilding import RebuiltChunks
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.whole_blob import NOT_WHOLE, read_whole
from harmonia_py.errors import FormatError, PushConflict, PushRefused
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.closure import references_first
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.evidence_check import other_references
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.publishing import Publisher
from harmonia_py.push.rebuilt_files import RebuiltFiles
from harmonia_py.push.receiving import PushSession
from harmonia_py.push.upload_check import blob_key_of

_CACHE_INFO: Final = re.compile(r"([^/]+)/nix-cache-info", re.ASCII)
_LOG: Final = re.compile(r"([^/]+)/log/([^/]+)", re.ASCII)
# The URLs of a static narinfo: of the NAR's file, or of the recipe that makes it of chunks.
_BELOW: Final = "\nURL: ../nar/"
_RECIPE: Final = re.compile(rf"\nURL: \.\./\.\./{RECIPES}([0-9a-z]+)\n", re.ASCII)
_PRINCIPAL: Final = "rebuild"
# As long as the collector of packs leaves packs alone that a rebuild has found.
_STAYS_SECONDS: Final = 7 * 86_400


class Rebuilt(Struct):
    """The figures of a rebuild.

    Attributes:
        caches: caches that were made.
        packs: packs that the catalog did not have.
        paths: paths that were published.
        waiting: paths whose references are not all there.
        logs: logs that belong to a cache again.
        faults: the reasons for which files were not taken, by their keys.
    """

    caches: int = 0
    packs: int = 0
    paths: int = 0
    waiting: int = 0
    logs: int = 0
    faults: dict[str, str] = field(default_factory=dict)


class _Found(Struct):
    """The files of one cache.

    Attributes:
        narinfos: the keys of each path: of the narinfo beside the others, of one that leads to chunks, or of both.
        logs: the derivations that have a log.
        cache_info: the key of its `nix-cache-info`.
    """

    narinfos: dict[HashPart, list[BlobKey]] = field(default_factory=dict)
    logs: list[StorePath] = field(default_factory=list)
    cache_info: BlobKey | None = None


class _Claim(Struct, frozen=True):
    """The claim of a narinfo, as of one that is pushed, and the key under which it lies."""

    key: BlobKey
    narinfo: NarInfo
    file: PushedFile
    is_chunked: bool


class Rebuild(Struct, eq=False):
    """Makes the catalog of what was pushed anew from the files.

    The narinfos of one cache are in memory together, some KiB each: references come first.

    Attributes:
        ports: the catalog, which is filled, and all files.
        caches: the named caches of the catalog.
        files: takes in the files of NARs.
        chunks: takes in packs.
        done: the figures so far.
    """

    ports: PushPorts
    caches: Caches
    files: RebuiltFiles
    chunks: RebuiltChunks
    done: Rebuilt = field(default_factory=Rebuilt)
    _packs: list[str] = []

    async def run(self) -> Rebuilt:
        """Read all files, and publish the paths of all caches.

        Raises:
            StorageError: files or catalog cannot be read or written.
        """
        caches = await self._look()
        named = await self.chunks.name_packs(self._packs)
        self.done.packs += named.packs
        self.done.faults |= named.faults
        for name, found in sorted(caches.items()):
            await self._rebuild(await self._cache(name, found), found)
        return self.done

    async def _look(self) -> dict[CacheName, _Found]:
        """The files of each cache that the directory has."""
        found: dict[CacheName, _Found] = defaultdict(_Found)
        async for info in self.ports.blobs.list():
            try:
                if (path := path_of_narinfo(info.key)) is not None:
                    cache, hash_part = CacheName.parse(path[0]), HashPart.parse(path[1])
                    found[cache].narinfos.setdefault(hash_part, []).append(info.key)
                elif info.key.startswith(PACKS):
                    self._packs.append(info.key)
                elif (match := _LOG.fullmatch(info.key)) is not None:
                    found[CacheName.parse(match[1])].logs.append(StorePath.parse(match[2]))
                elif (match := _CACHE_INFO.fullmatch(info.key)) is not None:
                    found[CacheName.parse(match[1])].cache_info = info.key
            except FormatError as error:
                self.done.faults[info.key] = str(error)
        return found

    async def _cache(self, name: CacheName, found: _Found) -> CacheRow:
        row = await self.caches.find(name)
        if row is not None:
            return row
        settings = CacheSettings()
        data = None if found.cache_info is None else await self._bytes(found.cache_info)
        if data is not None:
            info = CacheInfo.parse(data, self.ports.store_dir)
            settings = CacheSettings(priority=info.priority, want_mass_query=info.want_mass_query)
        self.done.caches += 1
        return await self.caches.create(name, settings, declared=False, now=self.ports.now())

    async def _rebuild(self, row: CacheRow, found: _Found) -> None:
        session = PushSession(f"rebuild-{row.id}", row.id, _PRINCIPAL)
        claims = await self._claims(row.name, found)
        elsewhere = _elsewhere(found, claims.values())

        async def find_elsewhere(hash_part: HashPart) -> StorePath | None:
            return elsewhere.get(hash_part)

        await self._begin(session)
        # No signature is required: the paths were accepted when they were pushed.
        publisher = Publisher(self.ports, (), find_elsewhere)
        published = set(elsewhere)
        for info in references_first({path: claim.narinfo.path_info for path, claim in claims.items()}):
            waits = not published.issuperset(other_references(info))
            if await self._publish(session, publisher, claims[info.store_path], waits=waits):
                published.add(info.store_path.hash_part)
        for derivation in found.logs:
            await self._attach_log(row, derivation)
        await self.ports.uploads.session(self._session(session, self.ports.now()), end=True)

    async def _begin(self, session: PushSession) -> None:
        """Have a running server leave alone the files that are read now, also after a cut."""
        await self.ports.uploads.session(self._session(session, self._later))
        await self.ports.uploads.forget(session.id, now=self.ports.now())

    @property
    def _later(self) -> Timestamp:
        return Timestamp(self.ports.now() + _STAYS_SECONDS)

    def _session(self, session: PushSession, seen: Timestamp) -> Session:
        return Session(id=session.id, cache=session.cache, principal=_PRINCIPAL, begun=seen, seen=seen)

    async def _publish(self, session: PushSession, publisher: Publisher, claim: _Claim, *, waits: bool) -> bool:
        """Publish a path, unless it is there or its claim is wrong; returns whether it is there now."""
        narinfo, hash_part = claim.narinfo, claim.narinfo.path_info.store_path.hash_part
        if await self.ports.objects.find(session.cache, hash_part) is not None:
            return True
        try:
            await self.files.receive(session, claim.file, is_chunked=claim.is_chunked)
            claimed = await publisher.check(session, hash_part, narinfo.format(self.ports.store_dir))
            published = await publisher.publish(claimed, waits_from=self._later if waits else None)
        except (FormatError, PushRefused, PushConflict) as error:
            self.done.faults[claim.key] = str(error)
            await self.ports.uploads.forget(session.id, now=self.ports.now())
            return False
        self.done.paths += 0 if published.missing else 1
        self.done.paths += len(published.promoted)
        self.done.waiting += bool(published.missing) - len(published.promoted)
        return not published.missing

    async def _claims(self, cache: CacheName, found: _Found) -> dict[StorePath, _Claim]:
        """The claims of all paths that have a readable narinfo."""
        claims: dict[StorePath, _Claim] = {}
        for hash_part, keys in found.narinfos.items():
            claim = await self._claim(hash_part, keys, chunked_key(cache, hash_part))
            if claim is not None:
                claims[claim.narinfo.path_info.store_path] = claim
        return claims

    async def _claim(self, hash_part: HashPart, keys: Sequence[BlobKey], chunked: BlobKey) -> _Claim | None:
        """The claim of a path: of the narinfo beside the others if that leads to a file, else of the one for chunks."""
        for key in sorted(keys, key=lambda one: one == chunked):
            claim = await self._read_claim(hash_part, key, is_chunked=key == chunked)
            if claim is None:
                continue
            is_sure = len(keys) == 1 or claim.is_chunked
            if is_sure or await self.ports.blobs.metadata(blob_key_of(claim.file)) is not None:
                return claim
        return None

    async def _read_claim(self, hash_part: HashPart, key: BlobKey, *, is_chunked: bool) -> _Claim | None:
        data = await self._bytes(key)
        if data is None:
            return None
        try:
            narinfo = _parse(data, hash_part, self.ports.store_dir)
            return _Claim(key, narinfo, PushedFile.parse(narinfo.url.removeprefix("nar/")), is_chunked=is_chunked)
        except (FormatError, UnicodeDecodeError) as error:
            self.done.faults[key] = str(error)
            return None

    async def _attach_log(self, row: CacheRow, derivation: StorePath) -> None:
        key = BlobKey(f"{row.name}/log/{derivation}")
        standing = await self.ports.objects.document(row.id, DocumentKind.LOG, derivation, pending=True)
        if standing is not None:
            return
        blob = await self.ports.blobs.open(key)
        if blob is None:
            self.done.faults[key] = NOT_WHOLE
            return
        with blob:
            document = Document(kind=DocumentKind.LOG, name=derivation, size=blob.size, blob_key=key)
        keepers = [derivation.hash_part]
        # Without a session the log stays, whether outputs of its derivation are published now, later or never.
        await self.ports.uploads.attach(row.id, None, document, keepers, now=self.ports.now())
        self.done.logs += 1

    async def _bytes(self, key: BlobKey) -> bytes | None:
        """The bytes of a listed blob; None when it cannot be opened, which is noted as a fault."""
        data = await read_whole(self.ports.blobs, key, self.ports.threads)
        if data is None:
            self.done.faults[key] = NOT_WHOLE
        return data


def _parse(data: bytes, hash_part: HashPart, store_dir: StoreDir) -> NarInfo:
    """The narinfo of a path, as other programs read it, with the URL that it was pushed with."""
    text = _RECIPE.sub(r"\nURL: nar/\1.nar.zst\n", data.decode().replace(_BELOW, "\nURL: nar/"))
    narinfo = NarInfo.parse(text.encode(), store_dir)
    if narinfo.path_info.store_path.hash_part != hash_part:
        raise FormatError(f"it is the narinfo of {narinfo.path_info.store_path}")
    return narinfo


def _elsewhere(found: _Found, claims: Iterable[_Claim]) -> dict[HashPart, StorePath]:
    """References without a narinfo here: when the paths were published, the cache had these from elsewhere."""
    references = (path for one in claims for path in one.narinfo.path_info.references)
    return {path.hash_part: path for path in references if path.hash_part not in found.narinfos}
