"""The pushes to each cache, put together from the things that a process has open."""

import logging
from collections.abc import Callable

from msgspec import Struct, field

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.caches import CHUNKS, CacheRow
from harmonia_py.catalog.objects import Sizes
from harmonia_py.catalog.quarantine import Quarantine
from harmonia_py.catalog.stored import OpenBlob
from harmonia_py.contents.blobs import BlobStore
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.push.documents import PushedDocuments
from harmonia_py.push.into_store import IntoStore
from harmonia_py.push.listings import LongListings
from harmonia_py.push.making import Making
from harmonia_py.push.multipart_pushes import MultipartPushes
from harmonia_py.push.parts import PartUploads
from harmonia_py.push.pending import PendingUploads
from harmonia_py.push.publishing import FindElsewhere, Publisher, PushPorts
from harmonia_py.push.push_metrics import PushCounters
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.rebuilding import Rebuild
from harmonia_py.push.rebuilt_files import RebuiltFiles
from harmonia_py.push.receiving import Receiver
from harmonia_py.push.recipes import RecipeUploads
from harmonia_py.push.room import RoomForPushes
from harmonia_py.push.sessions import PushSessions
from harmonia_py.push.static_listings import StaticListings
from harmonia_py.push.static_side import StaticSide
from harmonia_py.push.static_writer import StaticWriter
from harmonia_py.push.store_import import StoreImport
from harmonia_py.push.texts import TextKeeper
from harmonia_py.runtime.threads import Threads
from harmonia_py.runtime.warnings import RareWarning
from harmonia_py.storage.slices import read_slice
from harmonia_py.wiring.chunking import Chunking


class Publishing(Struct, frozen=True, eq=False):
    """Makes the pushes to caches.

    Attributes:
        sql: the catalog.
        store_dir: of all caches.
        blobs: the files.
        open_blob: opens a file, whole or made of chunks.
        chunking: makes files of chunks.
        quarantine: is told of files that are missing.
        receiver: takes files in.
        texts: keeps logs.
        listings: keeps those of NARs that are long.
        parts: files that come in parts.
        sizes: of caches, with these.
        pending: files that clients send to the bucket; None where they send all to this server.
        in_parts: those of them that come in parts; None where they cannot.
        static_writer: writes static narinfos in the background.
        static_listings: writes the listings beside them.
        threads: read files once more for content addresses.
        counters: of pushes, of this process.
        max_size: bytes that the files of all caches may take together; None for no limit.
        static_errors: says errors of ours that static sides meet.
        making: the recipes that this process has in hand.
    """

    sql: SqlCatalog
    store_dir: StoreDir
    blobs: BlobStore
    open_blob: OpenBlob
    chunking: Chunking
    quarantine: Quarantine
    receiver: Receiver
    texts: TextKeeper
    listings: LongListings
    parts: PartUploads
    sizes: Sizes
    pending: PendingUploads | None
    in_parts: MultipartPushes | None
    static_writer: StaticWriter
    static_listings: StaticListings
    threads: Threads
    counters: PushCounters
    max_size: Callable[[], int | None]
    making: Making
    static_errors: RareWarning = field(default_factory=lambda: RareWarning(logging.getLogger(StaticSide.__module__)))

    def pushes_to(
        self,
        row: CacheRow,
        view: BinaryCache,
        store_import: StoreImport | None,
        *,
        looks_elsewhere: bool,
        usage: CacheUsage,
    ) -> Pushes:
        """The pushes to a cache.

        Args:
            row: of the cache.
            view: the cache, as readers see it.
            store_import: adds pushed paths to the local store, instead of publishing them.
            looks_elsewhere: whether it has paths that were not pushed to it.
            usage: counts what is pushed to it.
        """
        catalog = self._ports()

        async def find_elsewhere(hash_part: HashPart) -> StorePath | None:
            found = await view.narinfo(hash_part)
            return None if found is None else found.narinfo.path_info.store_path

        async def find_to_leave_out(hash_part: HashPart) -> StorePath | None:
            path = await find_elsewhere(hash_part)
            # A path that only an upstream has is to be pushed into the local store all the same.
            return path if path is None or store_import is None or await store_import.has(path) else None

        sessions = PushSessions(
            row,
            catalog=catalog,
            sessions=self.sql.sessions,
            receiver=self.receiver,
            quarantine=self.quarantine,
            find_elsewhere=find_to_leave_out if looks_elsewhere else None,
        )
        publisher = self._publisher(catalog, row, find_elsewhere)
        documents = PushedDocuments(
            row.name,
            objects=catalog.objects,
            uploads=catalog.uploads,
            nars=catalog.nars,
            texts=self.texts,
            now=self.receiver.now,
            into_store=store_import is not None,
        )
        room = RoomForPushes(
            row,
            sizes=self.sizes,
            wanted=catalog.room_wanted,
            arrivals=catalog.arrivals,
            max_size_of_all=self.max_size,
            now=self.receiver.now,
        )
        into_store = None
        if store_import is not None:
            into_store = IntoStore(
                row.name,
                view=view,
                catalog=catalog,
                publish=publisher.publish,
                blobs=self.blobs,
                quarantine=self.quarantine,
                store_import=store_import,
                now=self.receiver.now,
            )
        return Pushes(
            row,
            view=view,
            catalog=catalog,
            receiver=self.receiver,
            publisher=publisher,
            documents=documents,
            sessions=sessions,
            parts=self.parts,
            static_side=self.static_side(row, view),
            static_writer=self.static_writer,
            open_blob=self.open_blob,
            quarantine=self.quarantine,
            counters=self.counters,
            usage=usage,
            room=room,
            into_store=into_store,
            pending=self.pending,
            in_parts=self.in_parts,
            recipes=self._recipes(row, view, room, usage) if into_store is None else None,
        )

    def _recipes(
        self, row: CacheRow, view: BinaryCache, room: RoomForPushes, usage: CacheUsage
    ) -> RecipeUploads | None:
        # A reader may know the chunks of all paths only where no policy withholds some.
        if row.settings.deduplicate != CHUNKS or view.has_policy:
            return None
        return RecipeUploads(
            row,
            bases=self.sql.bases,
            sessions=self.sql.sessions,
            chunks=self.sql.chunks,
            files=self.chunking.files,
            spool=self.chunking.spool,
            receiver=self.receiver,
            room=room,
            counters=self.counters,
            usage=usage,
            making=self.making,
            read=read_slice,
            threads=self.threads,
        )

    def static_side(self, row: CacheRow, view: BinaryCache) -> StaticSide:
        """The static side of a cache that readers see as `view`."""
        return StaticSide(
            row.id,
            row.name,
            view,
            objects=self.sql.static_objects,
            blobs=self.blobs,
            listings=self.static_listings,
            errors=self.static_errors,
        )

    def _publisher(
        self, catalog: PushPorts, row: CacheRow, find_elsewhere: FindElsewhere, *, trusts_all: bool = False
    ) -> Publisher:
        keys = () if trusts_all else row.settings.signed_by
        return Publisher(
            catalog=catalog,
            open_blob=self.open_blob,
            read=read_slice,
            threads=self.threads,
            store_dir=self.store_dir,
            trusted_keys=[PublicKey.parse(key) for key in keys],
            quarantine=self.quarantine,
            find_elsewhere=find_elsewhere,
            now=self.receiver.now,
        )

    def rebuild(self, report: Callable[[int], object] = lambda _: None) -> Rebuild:
        """The rebuild of the catalog from the files."""
        catalog, chunks = self._ports(), self.chunking.rebuilt(report)
        files = RebuiltFiles(
            catalog,
            blobs=self.blobs,
            listings=self.listings,
            chunks=chunks,
            read=read_slice,
            threads=self.threads,
            now=self.receiver.now,
            report=report,
        )
        # No signature is required: the paths were accepted when they were pushed.
        return Rebuild(
            catalog=catalog,
            caches=self.sql.caches,
            blobs=self.blobs,
            files=files,
            chunks=chunks,
            read=read_slice,
            threads=self.threads,
            store_dir=self.store_dir,
            publisher_of=lambda row, find: self._publisher(catalog, row, find, trusts_all=True),
            now=self.receiver.now,
        )

    def _ports(self) -> PushPorts:
        return PushPorts(
            objects=self.sql.objects,
            index=self.sql.objects,
            nars=self.sql.nars,
            uploads=self.sql.uploads,
            adoption=self.sql.adoption,
            awaiting=self.sql.awaiting,
            evidence=self.sql.evidence,
            audit=self.sql.audit,
            room_wanted=self.sql.room_wanted,
            arrivals=self.sql.arrivals,
        )
