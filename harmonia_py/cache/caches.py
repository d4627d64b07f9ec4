"""The caches of a server by their names. One that is not asked for costs nothing.

`Caches` remembers the caches that were asked for lately, and that there is none of some name; the others it looks up,
wherever they are declared. What it remembers is right until `forget` is called.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Final

from msgspec import Struct, field

from harmonia_py.cache.access import Action, Principal
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.cache.explore import Explorer
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.nix.signing import PublicKey

# Caches that one worker remembers, a few hundred bytes each; to look one up again takes a row of a database.
_MAX_REMEMBERED: Final = 1024


class NamedCache(Struct, frozen=True, eq=False, weakref=True, dict=True):
    """A cache, and to whom it is open. The cache itself is made when it is first asked.

    Attributes:
        name: of the cache.
        public: whether reading takes no token.
        make: makes the cache, without waiting for anything.
        explorer: answers what people ask about its store paths; None when they cannot be searched.
        upstreams: the names of the caches that it mirrors.
        upstream_keys: the public keys of those.
        other_keys: the public keys of further places that it has paths from.
        key_ends: when keys that have a successor stop signing, in seconds since the epoch, by their names.
        usage: counts what is asked of it and pushed to it; by itself unless given.
    """

    name: CacheName
    public: bool
    make: Callable[[], BinaryCache]
    explorer: Explorer | None = None
    upstreams: Sequence[str] = ()
    upstream_keys: Sequence[PublicKey] = ()
    other_keys: Sequence[PublicKey] = ()
    key_ends: Mapping[str, float] = MappingProxyType({})
    usage: CacheUsage = field(default_factory=CacheUsage)

    @property
    def keys_for_clients(self) -> tuple[PublicKey, ...]:
        """The keys that clients must trust: its own, or else those of its upstreams, and those of further places."""
        return tuple(dict.fromkeys((*(self.cache.public_keys or self.upstream_keys), *self.other_keys)))

    @cached_property
    def cache(self) -> BinaryCache:
        """The cache itself, made when it is first needed."""
        return self.make()

    def allows(self, principal: Principal, action: Action) -> bool:
        """Whether `principal` may do `action` here."""
        return (self.public and action is Action.READ) or principal.may(action, self.name)


FindCache = Callable[[CacheName], Awaitable[NamedCache | None]]
"""Looks up a cache where caches are declared; None when there is none of this name."""


class Caches:
    """The caches of one worker.

    Args:
        default: the cache at `/`; public, explorer, upstreams, upstream_keys, usage: what `NamedCache` is told of it.
        find: looks up the others; None for a server that has no others.

    Attributes:
        default: the cache at `/`.
        has_others: whether there may be others.
    """

    def __init__(
        self,
        default: BinaryCache,
        *,
        public: bool = True,
        explorer: Explorer | None = None,
        upstreams: Sequence[str] = (),
        upstream_keys: Sequence[PublicKey] = (),
        usage: CacheUsage | None = None,
        find: FindCache | None = None,
    ) -> None:
        self.default = NamedCache(
            DEFAULT,
            public=public,
            make=lambda: default,
            explorer=explorer,
            upstreams=upstreams,
            upstream_keys=upstream_keys,
            usage=usage or CacheUsage(),
        )
        self.has_others = find is not None
        self._find = find
        self._remembered: OrderedDict[str, NamedCache | None] = OrderedDict()

    def known(self, name: str) -> NamedCache | None:
        """The cache of this name, if that is remembered: None says nothing."""
        return self.default if name == DEFAULT else self._remembered.get(name)

    async def find(self, name: CacheName) -> NamedCache | None:
        """The cache of this name.

        Raises:
            CatalogError: it cannot be looked up.
        """
        if name == DEFAULT or self._find is None:
            return self.default if name == DEFAULT else None
        if name in self._remembered:
            self._remembered.move_to_end(name)
            return self._remembered[name]
        remembered = self._remembered
        # Another request may have looked it up meanwhile: one name leads to one cache. What was forgotten meanwhile
        # stays forgotten: this is put where it was looked for.
        found = remembered.setdefault(name, await self._find(name))
        if len(remembered) > _MAX_REMEMBERED:
            remembered.popitem(last=False)
        return found

    def forget(self) -> None:
        """Look up every cache again: some may have been changed or deleted."""
        self._remembered = OrderedDict()
