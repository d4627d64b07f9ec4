"""Caches that are made and changed while a server runs: as a whole, or not at all."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from catalogs import BACKENDS, NOW, opened_catalog

from harmonia_py.cache.access import Principal
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.cache_changes import CacheChanges
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import ask
from harmonia_py.errors import StorageError
from harmonia_py.nix.signing import SecretKey

TEAM: Final = CacheName("team")
KEY: Final = SecretKey.generate("team-1")
BY: Final = Principal("token admin")


@pytest.fixture(params=BACKENDS)
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog(request.param, tmp_path) as catalog:
        yield catalog


def changes_of(catalog: SqlCatalog) -> CacheChanges:
    return CacheChanges(catalog.caches, catalog.keys, catalog.audit, encryption=None, clock=lambda: NOW)


async def test_a_cache_whose_key_cannot_be_kept_is_not_made(catalog: SqlCatalog) -> None:
    """It would serve paths that no client trusts, and its name would be taken."""
    changes = changes_of(catalog)
    await catalog.database.write(lambda: ask("alter table signing_keys rename to away"))
    with pytest.raises(StorageError):
        await changes.create(TEAM, CacheSettings(), KEY, BY)
    assert await catalog.caches.find(TEAM) is None
    await catalog.database.write(lambda: ask("alter table away rename to signing_keys"))
    await changes.create(TEAM, CacheSettings(), KEY, BY)
    assert await catalog.caches.find(TEAM) is not None


async def test_a_cache_that_is_gone_is_neither_changed_nor_deleted_nor_noted(catalog: SqlCatalog) -> None:
    """Two administrators at once: the second is told, and the log says nothing of it."""
    changes = changes_of(catalog)
    await changes.create(TEAM, CacheSettings(), KEY, BY)
    assert await changes.delete(TEAM, BY)
    noted = await catalog.audit.page(None, 10)
    assert not await changes.configure(TEAM, {"public": True}, BY)
    assert not await changes.replace_key(TEAM, SecretKey.generate("team-2"), BY)
    assert not await changes.delete(TEAM, BY)
    assert await catalog.audit.page(None, 10) == noted
