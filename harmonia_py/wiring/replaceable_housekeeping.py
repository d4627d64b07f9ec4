"""The background work for a directory of replaceable files: compressed here, or mirrored.

The longest unused files are evicted, garbage is deleted, and every file is read once more in each period.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import CHUNKS, CacheSettings
from harmonia_py.catalog.changes import Changes
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.kept import KeptPorts
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.quarantine import Quarantine, QuarantineCounters
from harmonia_py.catalog.quota import Limits
from harmonia_py.catalog.replaceable_housekeeping import EvictionCounters, ReplaceableHousekeeping
from harmonia_py.catalog.rooms import Room, Rooms, replaceable
from harmonia_py.catalog.takeover import Takeover
from harmonia_py.chunks.pack_room import PackRoom
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.deletion import delete_all
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import Topic
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.wiring.chunking import Chunking
from harmonia_py.wiring.deduplicating import mirror_deduplication, mirror_packs
from harmonia_py.wiring.files import OpenFiles, Space
from harmonia_py.wiring.pools import Selection, owned
from harmonia_py.wiring.scrubbing import scrub

_log = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS: Final = 60.0


class Upkeep(Struct, frozen=True, kw_only=True):
    """How a directory of replaceable files is looked after.

    Attributes:
        limits: of the files.
        store_dir: narinfos for another store directory are not kept.
        rooms: hold all storage to the limits of `[storage]`; None for no such limits.
        scrub_period: seconds in which each file is read once more; None for never.
        settings: say what becomes chunks of the files of upstreams.
    """

    limits: Limits
    store_dir: StoreDir
    rooms: Rooms | None = None
    scrub_period: float | None = None
    settings: CacheSettings = CacheSettings()


class DirectoryHousekeeping(Struct, frozen=True, eq=False):
    """A directory that one process, of all that share it, looks after.

    Attributes:
        key: the setting that names the directory.
        files: that are kept.
        space: in which they take room.
        catalog: of the files.
        uses: last uses that this process has not written to the catalog yet.
        metrics: the counters of this process.
        chunking: makes files of chunks.
    """

    key: str
    files: OpenFiles
    space: Space
    catalog: SqlCatalog
    uses: LastUses
    metrics: Metrics
    chunking: Chunking

    async def select(self, selection: Selection, upkeep: Upkeep) -> None:
        """Look after the directory, as long as this configuration and these files are in use."""
        key, of, limits, store_dir = self.key, (self.catalog, self.files), upkeep.limits, upkeep.store_dir
        packs = await selection.get(f"packs of {key}", of, owned(self._pack_room, lambda _: None))
        # Closed at once by a reload: old limits must not evict any more, nor closed files be asked.
        counters = EvictionCounters.on(self.metrics, self._name)
        housekeeping = ReplaceableHousekeeping(self._room(packs), limits, counters)
        eviction = selection.running(partial(self._evict, housekeeping, store_dir))
        await selection.get(f"eviction of {key}", (*of, limits, store_dir), eviction, closes_at_once=True)
        if upkeep.rooms is not None:
            sharing = selection.running(partial(self._share_room, upkeep.rooms, self._room(packs)))
            await selection.get(f"room of {key}", of, sharing, closes_at_once=True)
        checking = selection.running(partial(self._check, upkeep.scrub_period))
        await selection.get(f"scrub of {key}", (*of, upkeep.scrub_period), checking, closes_at_once=True)
        chunks = selection.running(partial(self._make_chunks, packs, upkeep.settings))
        await selection.get(f"chunks of {key}", (*of, upkeep.settings), chunks, closes_at_once=True)

    @property
    def _name(self) -> str:
        return name_of(self.key)

    def _pack_room(self) -> PackRoom:
        return mirror_packs(self.catalog, self.chunking, self.metrics, self._name)

    def _room(self, packs: PackRoom) -> Room:
        return Room(
            collector=Collector(self.catalog.collection, self.catalog.garbage, partial(delete_all, self.files.blobs)),
            scopes=replaceable,
            sizes=self.catalog.objects,
            uses=self.uses,
            collecting=self.catalog.database.collecting,
            free_bytes=self.space.free_bytes,
            device=self.space.device,
            packs=packs,
        )

    async def _evict(self, housekeeping: ReplaceableHousekeeping, store_dir: StoreDir) -> None:
        takeover = takeover_of(self.files.blobs, self.catalog, store_dir)
        while True:
            try:
                await takeover.run()
                break
            except StorageError as error:
                _log.warning("files cannot be taken into the catalog for now: %s", error)
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
        await housekeeping.run()

    async def _make_chunks(self, packs: PackRoom, settings: CacheSettings) -> None:
        if settings.deduplicate != CHUNKS and (await self.catalog.chunk_work.figures()).packs == 0:
            await asyncio.Event().wait()  # for the next reload
        job = mirror_deduplication(
            self.catalog, self.chunking, packs, uses=self.uses, settings=settings, metrics=self.metrics, name=self._name
        )
        await job.run()

    async def _share_room(self, rooms: Rooms, room: Room) -> None:
        leave = rooms.add(room)
        try:
            await asyncio.Event().wait()  # for the end of this configuration
        finally:
            leave()

    async def _check(self, period: float | None) -> None:
        note_fault = isolating(self.files.blobs, self.catalog, self.metrics, self._name)
        discard, name = self.files.blobs.delete, self._name
        digests = self.chunking.digests
        await scrub(digests, self.catalog, note_fault, self.metrics, name=name, period=period, discard=discard)


def name_of(key: str) -> str:
    """The name on `/metrics` of the directory that a setting names."""
    return key.partition(".")[0]


def takeover_of(blobs: BlobStore, ports: SqlCatalog, store_dir: StoreDir) -> Takeover:
    """The takeover of files that a catalog does not know."""
    return Takeover(blobs, kept_ports(ports, LastUses(ports.objects)), store_dir)


def kept_ports(ports: SqlCatalog, uses: LastUses) -> KeptPorts:
    """The ports of a catalog that `Kept` needs."""
    return KeptPorts(
        objects=ports.objects,
        nars=ports.nars,
        uploads=ports.uploads,
        mirrored=ports.mirrored,
        realisations=ports.mirrored,
        mismatches=ports.mismatches,
        repairs=ports.repairs,
        uses=uses,
        removals=Changes(partial(ports.database.generation, Topic.REMOVALS)),
        additions=Changes(partial(ports.database.generation, Topic.OBJECTS)),
    )


def quarantine_of(blobs: BlobStore, catalog: SqlCatalog, metrics: Metrics, name: str) -> Quarantine:
    """The quarantine of files of a directory, which end it by coming again."""

    async def is_here(key: str) -> bool:
        return await blobs.metadata(BlobKey(key)) is not None

    remedy = "until their files are made or fetched again, which the next request does"
    return Quarantine(catalog.nars, is_here, QuarantineCounters.on(metrics, name), remedy=remedy)


def isolating(
    blobs: BlobStore, catalog: SqlCatalog, metrics: Metrics, name: str
) -> Callable[[NarFile, str], Coroutine[object, None, None]]:
    """The treatment of a lost or wrong file of a directory: it is removed, and the next request makes it again."""
    quarantine = quarantine_of(blobs, catalog, metrics, name)

    async def note_fault(file: NarFile, fault: str) -> None:
        await quarantine.note(file, fault)
        # The bytes have to go: a file that is there is served, with a row or without. One in chunks is made by its row.
        if not file.is_chunked:
            await blobs.delete(BlobKey(file.blob_key))

    return note_fault
