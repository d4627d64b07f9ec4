"""`KeptFiles` over the catalog: which files, compressed here or mirrored, one storage keeps, and the facts of each.

Files are served from the storage also while the catalog fails. What is kept in that time is entered once the catalog
answers again, or, when the process ends before, at the next start.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.source import Download
from harmonia_py.cache.validity import Epoch, Validity
from harmonia_py.catalog.caches import MIRROR, STORE, CacheId, Timestamp, time_by
from harmonia_py.catalog.changes import Changes
from harmonia_py.catalog.kept_objects import is_kept_at, is_of, nar_file
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.mirrored import Mirrored, Mismatches, Realisations
from harmonia_py.catalog.nars import BeingDeleted, Nars, once_deleted
from harmonia_py.catalog.objects import Objects, Publication, StoredObject
from harmonia_py.catalog.outages import Outages
from harmonia_py.catalog.owed import Owed
from harmonia_py.catalog.repairs import Repairs
from harmonia_py.catalog.uploads import Uploads
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.kept_files import UNKNOWN, FileFacts, KeptFacts, Mismatch, key_of, unit_of, url_of
from harmonia_py.contents.storage import NotKept, Storage
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

# Facts of so many files, of some 300 bytes each: a miss costs a look into the catalog.
_MAX_FACTS: Final = 16_384
_MAX_MISMATCHES: Final = 10_000
# From a client's question for a narinfo to its question for the NAR, with the upstream's answer in between.
_LATELY_SECONDS: Final = 1.0


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


class _Absence(Struct, frozen=True):
    """Nothing of a path was kept at a time of the monotonic clock, and is not for as long as the validity holds."""

    since: float
    validity: Validity


OpenRecipe = Callable[[str, str], Awaitable[Download | None]]


class Kept:
    """`KeptFiles`, of files of upstreams as well (`KeptMirrored` says what else is known of those).

    While the catalog fails, answers are "unknown" and what is written is lost or owed; only `reserve` raises.

    Args:
        storage: has the bytes.
        ports: the catalog; None when there is none: then nothing is known and nothing is written.
        open_recipe: opens the file that a recipe makes, given its key and an ETag; None when there is no such recipe.

    Attributes:
        storage: as given.
        catalog: is asked, where it is not left alone after a failure.
        owed: enters files, also those that came while the catalog failed.
        entering: held while a second file of a NAR is entered, which must see the row of the first one to replace it.
    """

    def __init__(self, storage: Storage, ports: KeptPorts | None, open_recipe: OpenRecipe | None = None) -> None:
        self.storage = storage
        self._ports = ports
        self._open_recipe = open_recipe
        self._warning = RareWarning(_log)
        self.catalog = Outages(ports)
        self._facts: Bounded[BlobKey, KeptFacts] = Bounded(_MAX_FACTS)
        self._absent: Bounded[HashPart, _Absence] = Bounded(_MAX_FACTS)
        self.entering = asyncio.Lock()
        self.owed = Owed(storage, self.catalog, self.write)

    async def reserve(self, key: BlobKey) -> None:
        """Keep the collector from deleting what is put under `key` after this call; wait while older bytes are deleted.

        Raises:
            StorageError: that takes too long.
        """
        try:
            await once_deleted(lambda: self.catalog.tell(lambda ports: ports.nars.reserve(key)))
        except BeingDeleted as error:
            raise StorageError(f"{key}: {error}, which takes too long") from error

    async def find(self, key: BlobKey, *, insists: bool = False, lately: bool = False) -> KeptFacts:
        """As in `KeptFiles`; also of files that a mirror keeps.

        Args:
            key: of the file.
            insists: as in `Outages.ask`.
            lately: whether the answer may be that nothing of the path was kept a second ago. The file may have come
                meanwhile: a caller that goes on to fetch it finds it in the storage then.
        """
        # Taken before the question, so that a change during it ends the answer.
        removals, additions = self.epochs()
        known = self._remembered(key, _LATELY_SECONDS if lately else 0.0)
        if known is not None:
            return known
        try:
            stored = await self.catalog.ask(lambda ports: _find(ports.mirrored, key), insists=insists)
        except NotKept:
            return UNKNOWN
        if stored is not None:
            return self.remember(key, stored, removals)
        known = self._facts[key] = KeptFacts(None, _validity(additions))
        return known

    def remembered(self, key: BlobKey) -> KeptFacts | None:
        """What `find` says without asking the catalog; None where it would ask."""
        self.epochs()
        return self._remembered(key)

    def _remembered(self, key: BlobKey, lately: float = 0.0) -> KeptFacts | None:
        known, now = self._facts.get(key), time.monotonic()
        if known is not None and known.validity is not None and known.validity.holds(now):
            return known
        absence = self._absent.get(HashPart(unit_of(key)))
        if absence is None or (absence.since + lately <= now and not absence.validity.holds(now)):
            return None
        return KeptFacts(None, absence.validity)

    async def has_nothing_of(self, hash_part: HashPart) -> bool:
        """Whether no file of a path is kept; False when it cannot be told. What it finds out, `find` knows."""
        removals, additions = self.epochs()
        since, validity = time.monotonic(), _validity(additions)
        try:
            objects = await self.catalog.ask(lambda ports: ports.mirrored.objects(hash_part))
        except NotKept:
            return False
        if not objects and validity is not None:
            self._absent[hash_part] = _Absence(since, validity)
        for stored in reversed(objects):
            self.remember(
                key_of(NarUrl(hash_part, stored.path_info.nar_hash, stored.file.compression)), stored, removals
            )
        return not objects

    async def made(self, known: KeptFacts) -> Download | None:
        """As in `KeptFiles`; also of files that a mirror keeps."""
        if known.recipe is None or known.facts is None or self._open_recipe is None:
            return None
        try:
            return await self._open_recipe(known.recipe, known.facts.file_hash.nix32)
        except StorageError as error:
            self._warning.say("%s: not made for now: %s", known.recipe, error)
            return None

    async def keep(self, key: BlobKey, path_info: PathInfo, facts: FileFacts) -> None:
        """As in `KeptFiles`."""
        file = nar_file(key, path_info, facts)
        # Without references: the local store itself sees to closures.
        info = PathInfo(store_path=path_info.store_path, nar_hash=path_info.nar_hash, nar_size=path_info.nar_size)
        publication = Publication(cache=STORE, path_info=info, file=file, pushed_by="store")

        async def publish(ports: KeptPorts) -> None:
            async with self.entering:
                stored = await ports.objects.find(STORE, path_info.store_path.hash_part)
                # A replacement ends ready answers.
                await ports.objects.publish(replace(publication, replace=stored is not None), now=now())

        await self.owed.enter(key, publish)
        await self.write(lambda ports: ports.mismatches.clear(path_info.store_path))

    async def mark(self, path_info: PathInfo, nar_hash: Hash | None) -> None:
        """As in `KeptFiles`."""
        mismatch = Mismatch(path_info.store_path, path_info.nar_hash, nar_hash, now())
        await self.write(lambda ports: ports.mismatches.note(mismatch))

    async def mismatches(self) -> Sequence[Mismatch]:
        """As in `KeptFiles`."""
        try:
            return await self.catalog.ask(lambda ports: ports.mismatches.all(_MAX_MISMATCHES))
        except NotKept:
            return []

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
            if await self.storage.metadata(key) is not None:
                return True
            recipe = (await self.find(key)).recipe
            return recipe is not None and await self.storage.metadata(recipe) is not None
        except NotKept:
            return False

    async def forget(self, key: BlobKey) -> None:
        """Remove a file whose bytes are of no use, and the objects that have it."""
        self._facts.pop(key, None)
        try:
            await self.storage.delete(key)
        except NotKept:
            return
        for cache in (STORE, MIRROR):
            await self.write(partial(_forget, cache, key))

    def used(self, hash_part: HashPart) -> None:
        """Note that a path was asked for."""
        if self._ports is not None:
            for cache in (STORE, MIRROR):
                self._ports.uses.note(cache, hash_part)

    def remember(self, key: BlobKey, stored: StoredObject, removals: Epoch | None) -> KeptFacts:
        """Remember which file an object has: the next request finds it without a look into the catalog.

        Args:
            key: of the file.
            stored: has it.
            removals: the epoch of removals in which that was found out.
        """
        self._absent.pop(stored.hash_part, None)
        known = self._facts[key] = _facts_of(stored, removals)
        return known

    async def write(self, write: Callable[[KeptPorts], Awaitable[object]]) -> bool:
        """Write to the catalog; False when it takes nothing now."""
        try:
            return await self.catalog.tell(write)
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
    facts, key = FileFacts(file.file_hash, file.file_size, stored.verified_ca), BlobKey(file.blob_key)
    return KeptFacts(facts, validity, recipe=key) if file.is_chunked else KeptFacts(facts, validity, key)


async def _forget(cache: CacheId, key: BlobKey, ports: KeptPorts) -> None:
    hash_part = url_of(key).hash_part
    stored = await ports.objects.find(cache, hash_part)
    if stored is not None and is_kept_at(stored, key):
        await ports.mirrored.forget(cache, hash_part, now=now())


def _validity(epoch: Epoch | None) -> Validity | None:
    return None if epoch is None else Validity(inf, (epoch,))


def now() -> Timestamp:
    """The time as the catalog has it."""
    return time_by(time.time)
