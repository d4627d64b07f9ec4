"""The pushes to each cache, put together from the things that a process has open."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.caches import CHUNKS, CacheRow
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.documents import PushedDocuments
from harmonia_py.push.into_store import IntoStore
from harmonia_py.push.making import Making
from harmonia_py.push.publishing import Publisher
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
        self._texts = TextKeeper(node.ports, node.spool)
        self._static_listings = StaticListings(node.ports)
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
        node, ports = self._node, self._node.ports

        async def find_elsewhere(hash_part: HashPart) -> StorePath | None:
            found = await view.narinfo(hash_part)
            return None if found is None else found.narinfo.path_info.store_path

        async def find_to_leave_out(hash_part: HashPart) -> StorePath | None:
            path = await find_elsewhere(hash_part)
            # A path that only an upstream has is to be pushed into the local store all the same.
            return path if path is None or store_import is None or await store_import.has(path) else None

        publisher = Publisher(ports, [PublicKey.parse(key) for key in row.settings.signed_by], find_elsewhere)
        room = RoomForPushes(row, ports, sizes=node.sizes, max_size_of_all=lambda: node.max_size)
        into_store = None
        if store_import is not None:
            into_store = IntoStore(row.name, ports, view=view, publish=publisher.publish, store_import=store_import)
        return Pushes(
            row,
            ports,
            view=view,
            receiver=node.receiver,
            publisher=publisher,
            documents=PushedDocuments(row.name, ports, self._texts, into_store=store_import is not None),
            sessions=PushSessions(row, ports, find_to_leave_out if looks_elsewhere else None),
            parts=node.parts,
            static_side=self.static_side(row, view),
            static_writer=node.static_writer,
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
            self._node.ports,
            chunks=self._node.catalog.chunks,
            files=self._node.chunking.files,
            spool=self._node.spool,
            receiver=self._node.receiver,
            room=room,
            counters=self._counters,
            usage=usage,
            making=self.making,
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

    def rebuild(self, report: Callable[[int], object] = lambda _: None) -> Rebuild:
        """The rebuild of the catalog from the files."""
        ports, chunks = self._node.ports, self._node.chunking.rebuilt(report)
        return Rebuild(
            ports,
            caches=self._node.catalog.caches,
            files=RebuiltFiles(ports, listings=self._node.listings, chunks=chunks, report=report),
            chunks=chunks,
        )
