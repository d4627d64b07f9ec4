"""Another cache of this server, which a cache asks for what it does not have itself."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar

from msgspec import Struct

from harmonia_py.cache.access import may_look_into
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.caches import NamedCache
from harmonia_py.cache.found import Found
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download
from harmonia_py.cache.tree import BuildId, DebugFile
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath

# The caches that this request has asked already: caches may look into each other in a circle.
_asked: Final[ContextVar[frozenset[CacheName]]] = ContextVar("asked", default=frozenset())

T = TypeVar("T")


class LookThrough(Struct, frozen=True, eq=False):
    """An `Elsewhere`: a cache by its name, as it is when it is asked (`may_look_into`).

    Attributes:
        find: looks up a cache by its name.
        name: of the cache that is asked.
        from_: the cache that asks.
        public: whether everybody may read the cache that asks.
    """

    find: Callable[[CacheName], Awaitable[NamedCache | None]]
    name: CacheName
    from_: CacheName
    public: bool

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """As `BinaryCache.narinfo`."""
        return await self._ask(lambda cache: cache.narinfo(hash_part))

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """As `BinaryCache.nar`."""
        return await self._ask(lambda cache: cache.nar(url, asker))

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """As `BinaryCache.document`."""
        return await self._ask(lambda cache: cache.document(kind, name))

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """As `BinaryCache.realisation`."""
        return await self._ask(lambda cache: cache.realisation(output))

    async def debug_file(self, build_id: BuildId) -> DebugFile | None:
        """As `BinaryCache.debug_file`."""
        return await self._ask(lambda cache: cache.debug_file(build_id))

    async def _ask(self, question: Callable[[BinaryCache], Awaitable[T | None]]) -> T | None:
        asked = _asked.get() | {self.from_}
        if self.name in asked:
            return None
        named = await self.find(self.name)
        if named is None or not may_look_into(public=self.public, other_public=named.public):
            return None
        token = _asked.set(asked)
        try:
            return await question(named.cache)
        finally:
            _asked.reset(token)
