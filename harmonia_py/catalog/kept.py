"""What the catalog knows of one storage: of NARs that were compressed here, and of files of upstreams.

Files are served from the storage also while the catalog fails. What is kept in that time is entered once the catalog
answers again, or, when the process ends before, at the next start.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.source import Download
from harmonia_py.cache.validity import Epoch, Validity
from harmonia_py.catalog.caches import MIRROR, STORE, CacheId, Timestamp
from harmonia_py.catalog.changes import Changes
from harmonia_py.catalog.kept_objects import is_kept_at, is_made_at, is_of, nar_file, stays_offered, whole_file
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.mirrored import (
    Mirrored,
    MirroredObject,
    Mismatches,
    Realisations,
    UpstreamNarInfo,
    UpstreamRealisation,
)
from harmonia_py.catalog.nars import BeingDeleted, Nars, once_deleted
from harmonia_py.catalog.objects import Document, DocumentKind, Objects, Publication, StoredObject
from harmonia_py.catalog.outages import Outages
from harmonia_py.catalog.owed import Owed
from harmonia_py.catalog.repairs import Repairs
from harmonia_py.catalog.uploads import Uploads
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.kept_files import UNKNOWN, FileFacts, KeptFacts, Mismatch, url_of
from harmonia_py.contents.storage import NotKept, Storage
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

# Facts of so many files, of some 300 bytes each: a miss costs a look into the catalog.
_MAX_FACTS: Final = 16_384
_MAX_MISMATCHES: Final = 10_000
# How long a file stays in a compression that no narinfo names any more: clients that remember an old narinfo often come
# together, after an upgrade, and it is fetched once for them.
_OLD_SECONDS: Final = 3600


class KeptPorts(Struct, frozen=True, kw_only=True):
    """The catalog of a storage.

    Attributes:
        uses: notes when objects were last asked for.
        removals: epochs in which nothing is removed.
        additions: epochs in which nothing is added.
    """

    objects: Objects
    nars: Nars
    uploads: Uploads
    mirrored: Mirrored
    realisations: Realisations
    mismatches: Mismatches
    repairs: Repairs
    uses: LastUses
    removals: Changes
    additions: Changes


OpenRecipe = Callable[[str, str], Awaitable[Download | None]]


class Kept:
    """`KeptFiles`, and what mirrors keep.

    While the catalog fails, answers are "unknown" and what is written is lost or owed; only `reserve` raises.

    Args:
        storage: has the bytes.
        ports: the catalog; None when there is none: then nothing is known and nothing is written.
        open_recipe: opens the file that a recipe makes, given its key and an ETag; None when there is no such recipe.
    """

    def __init__(self, storage: Storage, ports: KeptPorts | None, open_recipe: OpenRecipe | None = None) -> None:
        self._storage = storage
        self._ports = ports
        self._open_recipe = open_recipe
        self._warning = RareWarning(_log)
        self._catalog = Outages(ports)
        self._facts: Bounded[BlobKey, KeptFacts] = Bounded(_MAX_FACTS)
        # Two files of one NAR may come at once: the second must see the first one's row to replace it.
        self._entry_lock = asyncio.Lock()
        self._owed = Owed(storage, self._catalog, self._write)

    async def enter_owed(self) -> None:
        """Enter the files that came while the catalog failed, as soon as it answers. Runs until it is cancelled."""
        await self._owed.run()

    async def reserve(self, key: BlobKey) -> None:
        """Keep the collector from deleting what is put under `key` after this call; wait while older bytes are deleted.

        Raises:
            StorageError: that takes too long.
        """
        try:
            await once_deleted(lambda: self._catalog.tell(lambda ports: ports.nars.reserve(key)))
        except BeingDeleted as error:
            raise StorageError(f"{key}: {error}, which takes too long") from error

    async def find(self, key: BlobKey, *, insists: bool = False) -> KeptFacts:
        """As in `KeptFiles`; also of files that a mirror keeps. `insists`: as in `Outages.ask`."""
        # Taken before the question, so that a change during it ends the answer.
        removals, additions = self.epochs()
        known = self._remembered(key)
        if known is not None:
            return known
        try:
            stored = await self._catalog.ask(lambda ports: _find(ports.mirrored, key), insists=insists)
        except NotKept:
            return UNKNOWN
        if stored is None:
            return self._remember(key, KeptFacts(None, _validity(additions)))
        return self._remember(key, _facts_of(stored, removals))

    def remembered(self, key: BlobKey) -> KeptFacts | None:
        """What `find` says without asking the catalog; None where it would ask."""
        self.epochs()
        return self._remembered(key)

    def _remembered(self, key: BlobKey) -> KeptFacts | None:
        known = self._facts.get(key)
        holds = known is not None and known.validity is not None and known.validity.holds(time.monotonic())
        return known if holds else None

    async def made(self, known: KeptFacts) -> Download | None:
        """As in `KeptFiles`; also of files that a mirror keeps."""
        if known.recipe is None or known.facts is None or self._open_recipe is None:
            return None
        try:
            return await self._open_recipe(known.recipe, known.facts.file_hash.nix32)
        except StorageError as error:
            self._warning.say("%s: not made for now: %s", known.recipe, error)
            return None

    # Files that were compressed here

    async def keep(self, key: BlobKey, path_info: PathInfo, facts: FileFacts) -> None:
        """As in `KeptFiles`."""
        file = nar_file(key, path_info, facts)
        # Without references: the local store itself sees to closures.
        info = PathInfo(store_path=path_info.store_path, nar_hash=path_info.nar_hash, nar_size=path_info.nar_size)
        publication = Publication(cache=STORE, path_info=info, file=file, pushed_by="store")

        async def publish(ports: KeptPorts) -> None:
            async with self._entry_lock:
                await ports.objects.publish(await _replacing(ports.objects, publication), now=_now())

        await self._owed.enter(key, publish)
        await self._write(lambda ports: ports.mismatches.clear(path_info.store_path))

    async def mark(self, path_info: PathInfo, nar_hash: Hash | None) -> None:
        """As in `KeptFiles`."""
        mismatch = Mismatch(path_info.store_path, path_info.nar_hash, nar_hash, _now())
        await self._write(lambda ports: ports.mismatches.note(mismatch))

    async def mismatches(self) -> Sequence[Mismatch]:
        """As in `KeptFiles`."""
        try:
            return await self._catalog.ask(lambda ports: ports.mismatches.all(_MAX_MISMATCHES))
        except NotKept:
            return []

    # Files of upstreams

    async def mirrored(self, hash_part: HashPart) -> MirroredObject | None:
        """The upstream's narinfo of a path that is kept, with what is known of its file; None also for unknown."""
        try:
            return await self._catalog.ask(lambda ports: ports.mirrored.find(hash_part))
        except NotKept:
            return None

    async def keep_mirrored(
        self, key: BlobKey, upstream_narinfo: UpstreamNarInfo, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Enter the NAR under this key, which was verified against this narinfo of an upstream.

        Args:
            key: of the file.
            upstream_narinfo: of its path.
            metadata: that the file has just been kept with; None to look at the file.
        """
        await self._owed.enter(key, partial(self._keep_mirrored, key, upstream_narinfo, metadata))

    async def _keep_mirrored(
        self,
        key: BlobKey,
        upstream_narinfo: UpstreamNarInfo,
        metadata: Mapping[str, str] | None,
        ports: KeptPorts,
    ) -> None:
        info = upstream_narinfo.narinfo.path_info
        whole = whole_file(key, info, metadata or await self._storage.metadata(key))
        async with self._entry_lock:
            stored = await ports.objects.find(MIRROR, info.store_path.hash_part)
            # The narinfo of a file in chunks may have changed.
            there = whole or (
                None if stored is None or not is_made_at(stored, key) else (stored.file, stored.verified_ca)
            )
            if there is None:
                return
            if stored is not None and stays_offered(stored.file, there[0], upstream_narinfo):
                await ports.repairs.discard([key], garbage_from=Timestamp(_now() + _OLD_SECONDS))
                return
            publication = Publication(
                cache=MIRROR,
                path_info=info,
                file=there[0],
                verified_ca=there[1],
                elsewhere=frozenset(path.hash_part for path in info.references),
                pushed_by=upstream_narinfo.upstream,
                replace=stored is not None,
            )
            removals, _ = self.epochs()
            published = await ports.mirrored.keep(publication, upstream_narinfo, now=_now())
            # Another process may have entered another file of the path since the look at it.
            if published is not None and is_of(published, key):
                # The next request finds it without a look into the catalog.
                self._remember(key, _facts_of(published, removals))

    async def refresh(self, upstream_narinfo: UpstreamNarInfo) -> None:
        """Renew the upstream's narinfo of a path that is kept."""
        await self._write(lambda ports: ports.mirrored.refresh(upstream_narinfo))

    async def keep_document(self, key: BlobKey, name: str, size: int, *, is_listing: bool) -> None:
        """Enter the file of a listing, whose `name` is a hash part, or of a log, whose `name` is a derivation."""
        kind = DocumentKind.LISTING if is_listing else DocumentKind.LOG
        document = Document(kind=kind, name=name, size=size, blob_key=key)
        keepers = [HashPart(name)] if is_listing else []
        await self._owed.enter(key, lambda ports: ports.uploads.attach(MIRROR, None, document, keepers, now=_now()))

    async def realisation(self, output: str) -> UpstreamRealisation | None:
        """The remembered answer of an upstream for an output; None also when the catalog does not answer."""
        try:
            return await self._catalog.ask(lambda ports: ports.realisations.realisation(output))
        except NotKept:
            return None

    async def keep_realisation(self, realisation: UpstreamRealisation) -> None:
        """Remember what an upstream said of an output."""
        await self._write(lambda ports: ports.realisations.keep_realisation(realisation, now=_now()))

    # Files of both kinds

    def epochs(self) -> tuple[Epoch | None, Epoch | None]:
        """The present epochs of removals and of additions; None without a catalog.

        The call ends an older epoch when there was a change: what was known in it holds no longer.
        """
        if self._ports is None:
            return None, None
        return self._ports.removals.epoch(), self._ports.additions.epoch()

    async def has(self, key: BlobKey) -> bool:
        """Whether the storage has the file at this moment, whatever the catalog says; False when it cannot tell.

        Of a file in chunks it has the recipe.
        """
        try:
            if await self._storage.metadata(key) is not None:
                return True
            recipe = (await self.find(key)).recipe
            return recipe is not None and await self._storage.metadata(recipe) is not None
        except NotKept:
            return False

    async def forget(self, key: BlobKey) -> None:
        """Remove a file whose bytes are of no use, and the objects that have it."""
        self._facts.pop(key, None)
        try:
            await self._storage.delete(key)
        except NotKept:
            return
        for cache in (STORE, MIRROR):
            await self._write(partial(_forget, cache, key))

    def used(self, hash_part: HashPart) -> None:
        """Note that a path was asked for."""
        if self._ports is not None:
            for cache in (STORE, MIRROR):
                self._ports.uses.note(cache, hash_part)

    def _remember(self, key: BlobKey, known: KeptFacts) -> KeptFacts:
        self._facts[key] = known
        return known

    async def _write(self, write: Callable[[KeptPorts], Awaitable[object]]) -> bool:
        """Write to the catalog; False when it takes nothing now."""
        try:
            return await self._catalog.tell(write)
        except BeingDeleted as error:
            # The file was evicted and came again at once: the next request shows whether its bytes stay.
            _log.debug("a file is not entered: %s", error)
            return True


async def _find(mirrored: Mirrored, key: BlobKey) -> StoredObject | None:
    """The object under this key's hash part that has the key's NAR and compression; its file may have another key."""
    for stored in await mirrored.objects(url_of(key).hash_part):
        if is_of(stored, key):
            return stored
    return None


def _facts_of(stored: StoredObject, removals: Epoch | None) -> KeptFacts:
    file, validity = stored.file, _validity(removals)
    facts = FileFacts(file.file_hash, file.file_size, stored.verified_ca)
    if file.is_chunked:
        return KeptFacts(facts, validity, recipe=BlobKey(file.blob_key))
    return KeptFacts(facts, validity, BlobKey(file.blob_key))


async def _replacing(objects: Objects, publication: Publication) -> Publication:
    """`publication`, marked as a replacement if the path has an object: a replacement ends ready answers."""
    stored = await objects.find(publication.cache, publication.path_info.store_path.hash_part)
    return replace(publication, replace=stored is not None)


async def _forget(cache: CacheId, key: BlobKey, ports: KeptPorts) -> None:
    hash_part = url_of(key).hash_part
    stored = await ports.objects.find(cache, hash_part)
    if stored is not None and is_kept_at(stored, key):
        await ports.mirrored.forget(cache, hash_part, now=_now())


def _validity(epoch: Epoch | None) -> Validity | None:
    return None if epoch is None else Validity(inf, (epoch,))


def _now() -> Timestamp:
    return Timestamp(int(time.time()))
