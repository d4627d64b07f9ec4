"""The pushes to each cache, put together from the things that a process has open."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.caches import CHUNKS, CacheRow
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.documents import PushedDocuments
from harmonia_py.push.into_store import IntoStore
from harmonia_py.push.making import Making
from harmonia_py.push.publishing import FindElsewhere, Publisher, PushPorts
from harmonia_py.push.push_metrics import PushCounters
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.rebuilding import Rebuild
from harmonia_py.push.rebuilt_files import RebuiltFiles
from harmonia_py.push.recipes import RecipeUploads
from harmonia_py.push.room import RoomForPushes
from harmonia_py.push.sessions import PushSessions
from harmonia_py.push.static_listings import StaticListings
from harmonia_py.push.static_side import StaticSide
from harmonia_py.push.store_import import StoreImport
from harmonia_py.push.texts import TextKeeper
from harmonia_py.runtime.warnings import RareWarning
from harmonia_py.storage.slices import read_slice

if TYPE_CHECKING:
    from harmonia_py.wiring.pushing import PushNode


class Publishing:
    """Makes the pushes to caches.

    Args:
        node: has the things that they need.
    """

    def __init__(self, node: "PushNode") -> None:
        self.making = Making(node.metrics.board.texts)
        self._node = node
        self._texts = TextKeeper(spool=node.spool, blobs=node.blobs, threads=node.threads)
        self._static_listings = StaticListings(node.blobs, read_slice, node.threads)
        self._static_errors = RareWarning(logging.getLogger(StaticSide.__module__))
        self._counters = PushCounters.on(node.metrics)

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
        node, catalog = self._node, _ports(self._node.catalog)

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
            sessions=node.catalog.sessions,
            receiver=node.receiver,
            quarantine=node.quarantine,
            find_elsewhere=find_to_leave_out if looks_elsewhere else None,
        )
        publisher = self._publisher(catalog, row, find_elsewhere)
        documents = PushedDocuments(
            row.name,
            objects=catalog.objects,
            uploads=catalog.uploads,
            nars=catalog.nars,
            texts=self._texts,
            now=node.now,
            into_store=store_import is not None,
        )
        room = RoomForPushes(
            row,
            sizes=node.sizes,
            wanted=catalog.room_wanted,
            arrivals=catalog.arrivals,
            max_size_of_all=lambda: node.max_size,
            now=node.now,
        )
        into_store = None
        if store_import is not None:
            into_store = IntoStore(
                row.name,
                view=view,
                catalog=catalog,
                publish=publisher.publish,
                blobs=node.blobs,
                quarantine=node.quarantine,
                store_import=store_import,
                now=node.now,
            )
        return Pushes(
            row,
            view=view,
            catalog=catalog,
            receiver=node.receiver,
            publisher=publisher,
            documents=documents,
            sessions=sessions,
            parts=node.parts,
            static_side=self.static_side(row, view),
            static_writer=node.static_writer,
            open_blob=node.open_blob,
            quarantine=node.quarantine,
            counters=self._counters,
            usage=usage,
            room=room,
            into_store=into_store,
            pending=node.pending,
            in_parts=node.in_parts,
            recipes=self._recipes(row, view, room, usage) if into_store is None else None,
        )

    def _recipes(
        self, row: CacheRow, view: BinaryCache, room: RoomForPushes, usage: CacheUsage
    ) -> RecipeUploads | None:
        # A reader may know the chunks of all paths only where no policy withholds some.
        if row.settings.deduplicate != CHUNKS or not view.gives_all:
            return None
        return RecipeUploads(
            row.id,
            bases=self._node.catalog.bases,
            sessions=self._node.catalog.sessions,
            chunks=self._node.catalog.chunks,
            files=self._node.chunking.files,
            spool=self._node.spool,
            receiver=self._node.receiver,
            room=room,
            counters=self._counters,
            usage=usage,
            making=self.making,
            read=read_slice,
            threads=self._node.threads,
        )

    def static_side(self, row: CacheRow, view: BinaryCache) -> StaticSide:
        """The static side of a cache that readers see as `view`."""
        return StaticSide(
            row.id,
            row.name,
            view,
            objects=self._node.catalog.objects,
            blobs=self._node.blobs,
            listings=self._static_listings,
            errors=self._static_errors,
            discard=self._discard,
        )

    async def _discard(self, keys: Sequence[BlobKey]) -> None:
        await self._node.catalog.repairs.discard(keys, garbage_from=self._node.now())

    def _publisher(
        self, catalog: PushPorts, row: CacheRow, find_elsewhere: FindElsewhere, *, trusts_all: bool = False
    ) -> Publisher:
        keys = () if trusts_all else row.settings.signed_by
        return Publisher(
            catalog=catalog,
            open_blob=self._node.open_blob,
            read=read_slice,
            threads=self._node.threads,
            store_dir=self._node.store_dir,
            trusted_keys=[PublicKey.parse(key) for key in keys],
            quarantine=self._node.quarantine,
            find_elsewhere=find_elsewhere,
            now=self._node.now,
        )

    def rebuild(self, report: Callable[[int], object] = lambda _: None) -> Rebuild:
        """The rebuild of the catalog from the files."""
        catalog, chunks = _ports(self._node.catalog), self._node.chunking.rebuilt(report)
        files = RebuiltFiles(
            catalog,
            blobs=self._node.blobs,
            listings=self._node.listings,
            chunks=chunks,
            read=read_slice,
            threads=self._node.threads,
            now=self._node.now,
            report=report,
        )
        # No signature is required: the paths were accepted when they were pushed.
        return Rebuild(
            catalog=catalog,
            caches=self._node.catalog.caches,
            blobs=self._node.blobs,
            files=files,
            chunks=chunks,
            read=read_slice,
            threads=self._node.threads,
            store_dir=self._node.store_dir,
            publisher_of=lambda row, find: self._publisher(catalog, row, find, trusts_all=True),
            now=self._node.now,
        )


def _ports(catalog: SqlCatalog) -> PushPorts:
    return PushPorts(
        objects=catalog.objects,
        nars=catalog.nars,
        uploads=catalog.uploads,
        adoption=catalog.uploads,
        awaiting=catalog.awaiting,
        evidence=catalog.evidence,
        audit=catalog.audit,
        room_wanted=catalog.room_wanted,
        arrivals=catalog.arrivals,
    )
