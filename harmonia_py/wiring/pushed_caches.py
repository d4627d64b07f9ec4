"""The caches of the catalog put together, over the things that a process has open for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from harmonia_py.cache.binary_cache import BinaryCache, Elsewhere
from harmonia_py.cache.caches import NamedCache
from harmonia_py.cache.source import Source
from harmonia_py.cache.tree import DebugFiles, DebugFilesInOrder
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.administration import CacheAdministration
from harmonia_py.catalog.caches import CacheRow
from harmonia_py.catalog.standing import Standings
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.static_side import StaticSide
from harmonia_py.push.store_import import StoreImport
from harmonia_py.wiring.cache_keys import SigningKey

if TYPE_CHECKING:
    from harmonia_py.wiring.pushing import PushNode

# Paths that a search for a reason looks at, for a client that waits: some tenths of a second.
_MOST_LOOKED_AT: Final = 1000


class PushedCaches:
    """Makes caches that can be pushed to.

    Args:
        node: has the things that they need.
    """

    def __init__(self, node: "PushNode") -> None:
        self._node = node
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
            usage=usage,
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
        self._pushes[cache] = self._node.publishing.pushes_to(
            row, cache.cache, store_import, looks_elsewhere=looks_elsewhere, usage=cache.usage
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
        return self._node.publishing.static_side(row, self.view_of(row, keys))

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
