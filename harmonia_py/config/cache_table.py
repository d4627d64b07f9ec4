"""`[caches.NAME]`: a cache at `/NAME/`; `[caches.default]`: what is pushed to the one at `/`."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from harmonia_py.cache.access import may_look_into
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.config.units import parse_duration, parse_size
from harmonia_py.errors import naming
from harmonia_py.nix.signing import PublicKey

_OUTSIDE: Final = {
    "priority": "has that of the setting outside of tables",
    "want_mass_query": "has that of the setting outside of tables",
    "local_store": "has the local store already",
    "upstreams": "has all upstreams already",
}


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[caches.NAME]` table: a cache of that name, which is pushed to, and where else it looks.

    The table `[caches.default]` lets the cache at `/` take pushes; how that is served otherwise is said outside of it.

    Attributes:
        public: whether reading takes no token. Unset means false; at `/`, true unless there is a `token_file`.
        priority: of its `nix-cache-info`.
        want_mass_query: of its `nix-cache-info`.
        signed_by: public keys, one of which must have signed what is pushed; none for all that a token lets in.
        upstream_key_names: names of keys, such as cache.nixos.org-1: clients of Attic do not push what carries a
            signature of theirs, because readers of this cache have it from elsewhere.
        local_store: whether it has the paths of the local store as well.
        upstreams: names of upstreams whose paths it has as well.
        caches: names of other caches whose paths it has as well.
        max_nar_size: bytes of the largest NAR that may be pushed, as a number or as "2 GiB"; unset means any.
        max_size: bytes of all its files together, as they are sent; unset means no limit of its own.
        keep_unused: how long what is not used stays, in seconds or as "30 days"; unset means for ever.
        grace: how long what is to go stays, in which any use keeps it, in seconds or as "1 hour".
        deduplicate: "chunks": files become chunks that they share, also with other caches; "files": they stay files.
        deduplicate_after: how long a file is not asked for before it becomes chunks, in seconds or as "1 day".
        into: where what is pushed goes: "catalog", beside everything else that is kept; at `/` also "store": the local
            store, by way of the nix-daemon, where no `database.url` is set: others would share what waits for it.
        redirect: whether clients are sent to the bucket of `[storage] url` for large files, where that is set up.
    """

    public: bool | None = None
    priority: int = 40
    want_mass_query: bool = True
    signed_by: list[str] = []
    upstream_key_names: list[str] = []
    local_store: bool = False
    upstreams: list[str] = []
    caches: list[str] = []
    max_nar_size: int | str | None = None
    max_size: int | str | None = None
    keep_unused: int | str | None = None
    grace: int | str = "1 hour"
    deduplicate: Literal["files", "chunks"] = "files"
    deduplicate_after: int | str = "1 day"
    into: Literal["catalog", "store"] = "catalog"
    redirect: bool = True

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _ = self.settings
        with naming("signed_by", ValueError):
            for text in self.signed_by:
                PublicKey.parse(text)

    @property
    def settings(self) -> CacheSettings:
        """The table as the catalog keeps it."""
        given: dict[str, Any] = msgspec.structs.asdict(self)
        given["public"] = bool(self.public)
        durations = ("keep_unused", "grace", "deduplicate_after")
        for keys, parse in ((("max_nar_size", "max_size"), parse_size), (durations, parse_duration)):
            given |= {key: parse(key, given[key]) for key in keys if given[key] is not None}
        for key in ("signed_by", "upstream_key_names", "upstreams", "caches"):
            given[key] = tuple(given[key])
        return CacheSettings(**given)


def check_caches(caches: Mapping[str, Cache], upstreams: Iterable[str], *, default_is_public: bool) -> None:
    """Check the names of caches, and what they refer to.

    Raises:
        ValueError: a name that cannot be a cache's, an upstream or cache that there is not, caches in a circle, or a
            public cache that would show what a private one has.
    """
    known = set(upstreams)
    for name, cache in caches.items():
        with naming(f"caches: {name}", ValueError):
            CacheName.parse(name)
        if name == DEFAULT:
            _check_default(cache)
        elif cache.into == "store":
            raise ValueError(f"caches: {name}: into: only what is pushed to the cache at / goes into the store")
        for other in cache.upstreams:
            if other not in known:
                raise ValueError(f"caches: {name}: upstreams: there is no upstream {other!r}{_listed(known)}")
        for other in cache.caches:
            if other not in caches and other != DEFAULT:
                raise ValueError(f"caches: {name}: caches: there is no cache {other!r}{_listed({*caches} - {name})}")
        _check_readers(name, cache, caches, default_is_public=default_is_public)
        circle = _way_back(name, caches)
        if circle is not None:
            raise ValueError(f"caches: {name}: caches: looks through itself: {' -> '.join(circle)}")


def _check_readers(name: str, cache: Cache, caches: Mapping[str, Cache], *, default_is_public: bool) -> None:
    def is_public(name: str) -> bool:
        return default_is_public if name == DEFAULT else bool(caches[name].public)

    for other in cache.caches:
        if not may_look_into(public=is_public(name), other_public=is_public(other)):
            raise ValueError(
                f"caches: {name}: caches: {other} is not public, and everyone who reads {name} would read it"
            )


def _check_default(cache: Cache) -> None:
    unset = Cache()
    for key, where in _OUTSIDE.items():
        if getattr(cache, key) != getattr(unset, key):
            raise ValueError(f"caches: {DEFAULT}: {key}: the cache at / {where}")
    for key in ("max_size", "keep_unused"):
        if cache.into == "store" and getattr(cache, key) is not None:
            raise ValueError(f"caches: {DEFAULT}: {key}: what the store keeps is for Nix to decide; see into")


def _listed(names: set[str]) -> str:
    return f"; there are {', '.join(sorted(names))}" if names else ""


def _way_back(name: str, caches: Mapping[str, Cache]) -> list[str] | None:
    """How `name` leads back to itself; None when it does not."""
    ways, seen = [[name]], {name}
    while ways:
        way = ways.pop()
        for other in caches[way[-1]].caches:
            if other == name:
                return [*way, other]
            if other in caches and other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return None
