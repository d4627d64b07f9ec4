"""The caches of the catalog and the pushes to them put together, over the things that a process has open for them."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from harmonia_py.cache.binary_cache import BinaryCache, Elsewhere
from harmonia_py.cache.caches import NamedCache
from harmonia_py.cache.source import Source
from harmonia_py.cache.tree import DebugFiles, DebugFilesInOrder
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.administration import CacheAdministration
from harmonia_py.catalog.caches import CHUNKS, CacheRow
from harmonia_py.catalog.standing import Standings
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.nix.cache_info import CacheInfo
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
from harmonia_py.runtime.warnings import RareWarning
from harmonia_py.wiring.cache_keys import SigningKey

if TYPE_CHECKING:
    from harmonia_py.wiring.pushing import PushNode

# Paths that a search for a reason looks at, for a client that waits: some tenths of a second.
_MOST_LOOKED_AT: Final = 1000


class PushedCaches:
    """Makes caches that can be pushed to, and the pushes to them.

    Args:
        node: has the things that they need.

    Attributes:
        making: the recipes that this process has in hand.
    """

    def __init__(self, node: "PushNode") -> None:
        self.making = Making(node.metrics.board.texts)
        self._node = node
        self._static_listings = StaticListings(node.ports)
        self._static_errors = RareWarning(logging.getLogger(StaticSide.__module__))
        self._counters = PushCounters.on(node.metrics)
        self._standings = Standings(node.catalog.objects, node.catalog.objects, most=_MOST_LOOKED_AT)
        self._pushes: WeakKeyDictionary[NamedCache, Pushes] = WeakKeyDictionary()
        self._administrations: WeakKeyDictionary[NamedCache, CacheAdministration] = WeakKeyDictionary()

    def pushes_of(self, cache: NamedCache) -> Pushes | None:
        """The pushes to a cache that `cache_of` made."""
        return self._pushes.get(cache)

    def administration_of(self, cache: NamedCache) -> CacheAdministration | None:
        """The administration of a cache that `cache_of` made."""
        return self._administrations.get(cache)

    def cache_of(
        self,
        row: CacheRow,
        *,
        keys: Sequence[SigningKey] = (),
        others: Sequence[Source] = (),
        debug_files: DebugFiles | None = None,
        elsewhere: Sequence[Elsewhere] = (),
        other_keys: Sequence[PublicKey] = (),
        usage: CacheUsage | None = None,
    ) -> NamedCache:
        """A cache of the catalog.

        Args:
            row: of the cache.
            keys: sign paths that were pushed to it.
            others: further sources, for paths that were not.
            debug_files: find the debug information of these.
            elsewhere: other caches, asked after all sources.
            other_keys: the keys of upstreams and other caches that it has paths from.
            usage: counts what is asked of it and pushed to it; by itself when None.
        """
        stored = self._node.stored(row)
        debug = stored if debug_files is None else DebugFilesInOrder(stored, debug_files)
        view = self._view(row, keys, [stored, *others], debug, elsewhere)
        key_ends = {key.secret_key.name: float(key.until) for key in keys if key.until is not None}
        cache = NamedCache(
            row.name,
            public=row.settings.public,
            make=lambda: view,
            key_ends=key_ends,
            other_keys=other_keys,
            usage=usage or CacheUsage(),
        )
        self.take_pushes(cache, row, looks_elsewhere=bool(others or elsewhere))
        return cache

    def take_pushes(
        self, cache: NamedCache, row: CacheRow, store_import: StoreImport | None = None, *, looks_elsewhere: bool = True
    ) -> None:
        """Make a cache take pushes.

        Args:
            cache: that takes them; the source that `stored` gives is among its sources.
            row: of the cache.
            store_import: adds pushed paths to the local store, instead of publishing them.
            looks_elsewhere: whether it has paths that were not pushed to it.
        """
        # Nothing of the pushes refers to `cache`: they are forgotten with it.
        node, ports, view, usage = self._node, self._node.ports, cache.cache, cache.usage

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
        self._pushes[cache] = Pushes(
            row,
            ports,
            view=view,
            receiver=node.receiver,
            publisher=publisher,
            documents=PushedDocuments(row.name, ports, node.spool, into_store=store_import is not None),
            sessions=PushSessions(row, ports, find_to_leave_out if looks_elsewhere else None),
            parts=node.parts,
            static_side=self._static_side(row, view),
            static_writer=node.static_writer,
            counters=self._counters,
            usage=usage,
            room=room,
            into_store=into_store,
            pending=node.pending,
            in_parts=node.in_parts,
            recipes=self._recipes(row, view, room, usage) if into_store is None else None,
        )
        if store_import is None:
            self._administrations[cache] = CacheAdministration(
                row=row,
                pins=self._node.catalog.pins,
                deletions=self._node.catalog.deletions,
                standings=self._standings,
                now=self._node.now,
            )

    def static_side(self, row: CacheRow, keys: Sequence[SigningKey]) -> StaticSide:
        """The static side of a cache of the catalog."""
        return self._static_side(row, self.view_of(row, keys))

    def _static_side(self, row: CacheRow, view: BinaryCache) -> StaticSide:
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

    def view_of(self, row: CacheRow, keys: Sequence[SigningKey]) -> BinaryCache:
        """The view of a cache that has only the paths that were pushed to it."""
        stored = self._node.stored(row)
        return self._view(row, keys, [stored], stored)

    def _view(
        self,
        row: CacheRow,
        keys: Sequence[SigningKey],
        sources: Sequence[Source],
        debug_files: DebugFiles,
        elsewhere: Sequence[Elsewhere] = (),
    ) -> BinaryCache:
        return BinaryCache(
            cache_info=CacheInfo(self._node.store_dir, row.settings.want_mass_query, row.settings.priority),
            sources=sources,
            secret_keys=[key.secret_key for key in keys],
            debug_files=debug_files,
            elsewhere=elsewhere,
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

    def rebuild(self, report: Callable[[int], object] = lambda _: None) -> Rebuild:
        """The rebuild of the catalog from the files."""
        ports, chunks = self._node.ports, self._node.chunking.rebuilt(report)
        return Rebuild(
            ports,
            caches=self._node.catalog.caches,
            files=RebuiltFiles(ports, listings=self._node.listings, chunks=chunks, report=report),
            chunks=chunks,
        )
