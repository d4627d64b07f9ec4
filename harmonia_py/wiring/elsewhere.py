"""What a cache falls back to for paths that were not pushed to it: the local store, other caches, upstreams."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from harmonia_py.cache.access import may_look_into
from harmonia_py.cache.binary_cache import BinaryCache, Elsewhere
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.cache.caches import NamedCache
from harmonia_py.cache.look_through import LookThrough
from harmonia_py.cache.source import Source
from harmonia_py.catalog.caches import CacheRow
from harmonia_py.config.settings import Config
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.node import Node

if TYPE_CHECKING:
    from harmonia_py.database.catalog import SqlCatalog


class Places(Struct, frozen=True, eq=False):
    """Finds the further places that the caches of a server have paths from.

    Attributes:
        config: names the upstreams.
        node: has the local store, and the mirror of the upstreams.
        catalog: has the other caches.
        keys_of: finds the keys of these.
        find: looks up a cache as it is served.
    """

    config: Config
    node: Node
    catalog: "SqlCatalog"
    keys_of: CacheKeys
    find: Callable[[CacheName], Awaitable[NamedCache | None]]

    def sources(self, row: CacheRow) -> list[Source]:
        """The local store, if the cache has its paths as well: a source, because it vouches for its NarHashes."""
        local = self.node.compressed or self.node.local
        return [local] if row.settings.local_store and local is not None else []

    def elsewhere(self, row: CacheRow, *, public: bool) -> list[Elsewhere]:
        """The other caches, and then the upstreams, which take longer to ask.

        Args:
            row: the cache.
            public: whether everyone may read it.
        """
        settings = row.settings
        looks: list[Elsewhere] = [
            LookThrough(self.find, CacheName(name), from_=row.name, public=public) for name in settings.caches
        ]
        mirror = self.node.mirror
        if settings.upstreams and mirror is not None:
            from harmonia_py.mirror.of_upstreams import OfUpstreams  # noqa: PLC0415  # not without a mirror

            every = {upstream.label for upstream in self.config.upstream} <= set(settings.upstreams)
            looks.append(
                BinaryCache(
                    cache_info=CacheInfo(self.config.store_dir, settings.want_mass_query, settings.priority),
                    sources=[mirror if every else OfUpstreams(mirror, settings.upstreams)],
                    secret_keys=(),
                    policy=self.node.policy,
                )
            )
        return looks

    async def keys(self, row: CacheRow) -> Sequence[PublicKey]:
        """The public keys of the other caches and upstreams that the cache has paths from."""
        keys: list[PublicKey] = []
        upstreams = set(row.settings.upstreams)
        names, seen = list(row.settings.caches), {row.name}
        while names:
            name = CacheName(names.pop(0))
            if name in seen:
                continue
            seen.add(name)
            if name == DEFAULT:
                keys += self.node.cache.public_keys
                upstreams |= {upstream.label for upstream in self.config.upstream if not keys}
                continue
            other = await self.catalog.caches.find(name)
            if other is None or not may_look_into(public=row.settings.public, other_public=other.settings.public):
                continue
            with suppress(HarmoniaError):  # a cache without readable keys is not served, which is logged elsewhere
                keys += [key.secret_key.public_key for key in await self.keys_of.of(other)]
            upstreams |= set(other.settings.upstreams)
            names += other.settings.caches
        for upstream in self.config.upstream:
            keys += upstream.keys if upstream.label in upstreams else ()
        return list(dict.fromkeys(keys))
