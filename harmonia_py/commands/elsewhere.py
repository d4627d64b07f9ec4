"""The check of `cache create` and `cache configure`: the upstreams and caches that a cache is to have paths from."""

from typing import TYPE_CHECKING

from harmonia_py.cache.access import may_look_into
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError, naming

if TYPE_CHECKING:
    from harmonia_py.database.catalog import SqlCatalog


async def check_elsewhere(catalog: "SqlCatalog", config: Config, name: CacheName, settings: CacheSettings) -> None:
    """Check that the cache `name` may look where `settings` say, as it is checked in `harmonia.toml`.

    Raises:
        ConfigError: there is no such upstream or cache, a public cache would show what a private one has, or caches
            look through each other in a circle.
    """
    upstreams = {upstream.label for upstream in config.upstream}
    for upstream in settings.upstreams:
        if upstream not in upstreams:
            known = f"; there are {', '.join(sorted(upstreams))}" if upstreams else ""
            raise ConfigError(f"there is no upstream {upstream}{known}")
    ways, seen = [(settings.caches, [str(name)])], {str(name)}
    while ways:
        others, way = ways.pop()
        for other in others:
            if other == name:
                raise ConfigError(f"{name} looks through itself: {' -> '.join([*way, other])}")
            if other in seen:
                continue
            seen.add(other)
            found = await _settings_of(catalog, config, other)
            if not may_look_into(public=settings.public, other_public=found.public):
                raise ConfigError(f"{other} is not public, and everyone who reads {name} would read it")
            ways.append((found.caches, [*way, other]))


async def _settings_of(catalog: "SqlCatalog", config: Config, name: str) -> CacheSettings:
    if name == DEFAULT:
        table = config.default_cache
        return CacheSettings(public=config.is_public, caches=() if table is None else tuple(table.caches))
    with naming(repr(name)):
        row = await catalog.caches.find(CacheName.parse(name))
    if row is None:
        raise ConfigError(f"there is no cache {name}; `cache list` shows which there are")
    return row.settings
