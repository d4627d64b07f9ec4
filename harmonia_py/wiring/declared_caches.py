"""The caches that `harmonia.toml` declares, as rows of the catalog."""

import time
from contextlib import suppress

from msgspec.structs import replace

from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheExists, CacheRow, Caches, Timestamp, time_by
from harmonia_py.catalog.paging import rows_of
from harmonia_py.config.cache_table import Cache
from harmonia_py.config.settings import Config


def default_row(config: Config, table: Cache) -> CacheRow:
    """The row of the cache at `/`. Signatures that its policy wants of paths are wanted of pushes as well."""
    settings = table.settings
    if config.policy.serve == "signed":
        settings = replace(settings, signed_by=tuple(config.policy.public_keys))
    return CacheRow(id=DEFAULT_CACHE, name=DEFAULT, settings=settings, declared=True, created=Timestamp(0))


async def declare(caches: Caches, config: Config) -> None:
    """Enter the caches that `config` declares, with their settings; all others are left to commands and the API."""
    for text, table in config.caches.items():
        name = CacheName.parse(text)
        row = await caches.find(name)
        if row is None:
            with suppress(CacheExists):  # a command has made it meanwhile
                await caches.create(name, table.settings, declared=True, now=time_by(time.time))
        elif not row.declared or row.settings != table.settings:
            await caches.configure(name, table.settings, declared=True)
    async for row in rows_of(caches.page, lambda row: row.name):
        if row.declared and row.name not in config.caches:
            await caches.configure(row.name, row.settings, declared=False)
