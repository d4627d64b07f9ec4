"""The port `Caches`: the named caches with their settings."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, NewType, Protocol

from msgspec import Struct

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.errors import HarmoniaError

Timestamp = NewType("Timestamp", int)
"""Whole seconds since the epoch. Every method that depends on the time takes it: the catalog reads no clock."""


def time_by(clock: Callable[[], float]) -> Timestamp:
    """What a clock shows now, in whole seconds."""
    return Timestamp(int(clock()))


CacheId = NewType("CacheId", int)
"""Stands for a cache in every other row. A cache that is made anew under an old name has another one."""

# Two caches have no name and no URL of their own; other caches look through them.
STORE: Final = CacheId(1)
"""The cache of what was compressed of the local store: its objects keep files; narinfos come from the local store."""
MIRROR: Final = CacheId(2)
"""The cache of what is kept of upstreams, with their narinfos."""
DEFAULT_CACHE: Final = CacheId(3)
"""The cache of what was pushed to `/`."""

CHUNKS: Final = "chunks"
"""The value of `deduplicate` for a cache whose files become chunks."""


class CacheExists(HarmoniaError):
    """A cache of this name is there already."""


class CacheSettings(Struct, frozen=True, kw_only=True):
    """How one cache behaves. Each field has a default, so that rows of earlier releases keep their meaning.

    Attributes:
        public: whether reading takes no token.
        priority: of its `nix-cache-info`; a client asks the cache with the lowest first.
        want_mass_query: of its `nix-cache-info`.
        signed_by: public keys, one of which must have signed what is pushed; empty for all that a token lets in.
        upstream_key_names: names of keys whose paths clients of Attic do not push, because readers of this cache have
            them from elsewhere: a path is published without such references.
        local_store: whether it has the paths of the local store as well.
        upstreams: names of upstreams whose paths it has as well.
        caches: names of other caches whose paths it has as well.
        keep_unused: seconds that an unused object stays; None for ever.
        max_size: bytes of all its files together; None for no limit of its own.
        max_nar_size: bytes of the largest NAR that may be pushed; None for no limit.
        grace: seconds that a condemned object is still served, before it is removed.
        into: "store" when what is pushed is imported into the local store, else "catalog".
        deduplicate: "chunks" when files become chunks, which other files share, else "files".
        deduplicate_after: seconds that a file is not asked for before it becomes chunks.
        redirect: whether clients are sent to the bucket that has the bytes, where there is one.
    """

    public: bool = False
    priority: int = 40
    want_mass_query: bool = True
    signed_by: tuple[str, ...] = ()
    upstream_key_names: tuple[str, ...] = ()
    local_store: bool = False
    upstreams: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    keep_unused: int | None = None
    max_size: int | None = None
    max_nar_size: int | None = None
    grace: int = 3600
    into: str = "catalog"
    deduplicate: str = "files"
    deduplicate_after: int = 86_400
    redirect: bool = True


class CacheRow(Struct, frozen=True, kw_only=True):
    """A cache.

    Attributes:
        id: see `CacheId`.
        name: its name.
        settings: how it behaves.
        declared: whether `harmonia.toml` declares the cache; then only the file changes it.
        created: when it was made.
    """

    id: CacheId
    name: CacheName
    settings: CacheSettings
    declared: bool
    created: Timestamp


def iso(at: Timestamp | None) -> str | None:
    """A time as ISO 8601 writes it; None for none."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


class KeptByCache(NamedTuple):
    """What a cache has: paths that readers see and that are not condemned, and bytes of their files.

    Attributes:
        name: of the cache.
        paths: how many it has.
        size: bytes of their files.
        max_size: bytes that it may have; None for no limit.
    """

    name: CacheName
    paths: int
    size: int
    max_size: int | None


class KeptByCaches(NamedTuple):
    """What each of the oldest caches has, and what all others have together.

    Attributes:
        oldest: caches that have a name, the oldest first.
        other_paths: how many paths the others have.
        other_size: bytes of the files of these.
    """

    oldest: Sequence[KeptByCache]
    other_paths: int
    other_size: int


class Caches(Protocol):
    """The caches that have a name. Each method raises `StorageError` when the catalog cannot tell."""

    async def find(self, name: CacheName) -> CacheRow | None:
        """The cache of this name."""

    async def older(self, cache: CacheId, limit: int) -> int:
        """How many caches that have a name, that at `/` among them, are older than this one; at most `limit`."""

    async def kept(self, limit: int) -> KeptByCaches:
        """What each of the `limit` oldest caches that have a name has, that at `/` among them, and the others have."""

    async def page(self, after: CacheName | None, limit: int) -> Sequence[CacheRow]:
        """Up to `limit` caches in the order of their names, those that follow `after`."""

    async def create(self, name: CacheName, settings: CacheSettings, *, declared: bool, now: Timestamp) -> CacheRow:
        """Make a cache.

        Raises:
            CacheExists: the name is taken.
        """

    async def configure(self, name: CacheName, settings: CacheSettings, *, declared: bool) -> CacheRow | None:
        """Replace the settings of a cache, and whether the file declares it; None when there is none."""

    async def change(self, name: CacheName, changes: Mapping[str, Any]) -> CacheRow | None:
        """Change settings, by their names in `CacheSettings`, and leave the others as they are at that moment.

        None when there is no such cache, or the file declares it.
        """

    async def delete(self, name: CacheName, *, now: Timestamp) -> bool:
        """Free the name, and leave the objects to the collector; False when there is none."""
