"""A catalog that is copied between databases is the same there, or is not there at all."""

import asyncio
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from catalogs import NOW, later, publication
from postgresql import shared

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.copying import copy as copying
from harmonia_py.database.copying.tables import Table, tables
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import Row, ask, ask_one
from harmonia_py.errors import StorageError
from harmonia_py.wiring.copying import copy_catalog

PATHS: Final = 50


@pytest.fixture
def url() -> Iterator[str]:
    url = shared().database()
    yield url
    shared().drop(url)


async def filled(file: Path) -> None:
    catalog = SqlCatalog(await SqliteDatabase.open(file))
    row = await catalog.caches.create(CacheName("team"), CacheSettings(public=True), declared=False, now=NOW)
    names = [f"path-{number}" for number in range(PATHS)]
    for number, name in enumerate(names):
        await catalog.objects.publish(publication(row.id, name, names[max(0, number - 3) : number]), now=later(number))
    odd = Document(kind=DocumentKind.LOG, name="odd", size=3, body=b"\0\xff\n")
    await catalog.uploads.attach(row.id, "session", odd, (), now=NOW)
    await catalog.room_wanted.want(row.id, 2**40, now=NOW)
    await catalog.identity()
    await catalog.aclose()


def names_in(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


async def all_rows(catalog: SqlCatalog) -> dict[str, list[Row]]:
    def read_of(table: Table) -> Any:
        return lambda: ask(table.select)

    return {table.name: await catalog.database.scan(read_of(table)) for table in tables()}


async def copied(source: Path | str, target: Path | str) -> dict[str, int]:
    done = await copy_catalog(str(source), str(target), password=None, before_release=lambda: None)
    return dict(done)


@pytest.mark.postgresql
async def test_a_catalog_goes_to_postgresql_and_back_and_is_the_same(tmp_path: Path, url: str) -> None:
    there, back = tmp_path / "catalog.sqlite", tmp_path / "back" / "catalog.sqlite"
    back.parent.mkdir()
    await filled(there)
    done = await copied(there, url)
    assert done["objects"] == PATHS
    assert await copied(url, back) == done
    rows, identities = [], set()
    for database in (
        await SqliteDatabase.open(there),
        await PostgresDatabase.open(Address(url)),
        await SqliteDatabase.open(back),
    ):
        catalog = SqlCatalog(database)
        rows.append(await all_rows(catalog))
        identities.add(await catalog.identity())
        await catalog.aclose()
    assert rows[0] == rows[1] == rows[2]
    assert len(identities) == 1
    assert names_in(back.parent) == [
        "catalog.collecting",
        "catalog.lock",
        "catalog.sqlite",
    ]


@pytest.mark.postgresql
async def test_a_copy_that_is_another_than_the_original_is_not_there(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path / "catalog.sqlite")
    copy_table = copying._copy_table

    async def and_change(source: Any, target: Any, table: Table, report: Any) -> Any:
        total = await copy_table(source, target, table, report)
        if table.name == "objects":
            changed = target._connection.execute("update objects set used_s = used_s + 1")
            if inspect.isawaitable(changed):
                await changed
        return total

    monkeypatch.setattr(copying, "_copy_table", and_change)
    with pytest.raises(StorageError, match="objects"):
        await copied(tmp_path / "catalog.sqlite", url)
    assert shared().execute("select count(*) from objects", url) == [(0,)]
    await _fill_postgresql(url)
    with pytest.raises(StorageError, match="objects"):
        await copied(url, tmp_path / "new.sqlite")
    assert [name for name in names_in(tmp_path) if "new" in name] == []


async def _fill_postgresql(url: str) -> None:
    catalog = SqlCatalog(await PostgresDatabase.open(Address(url)))
    row = await catalog.caches.create(CacheName("team"), CacheSettings(), declared=False, now=NOW)
    await catalog.objects.publish(publication(row.id, "one"), now=NOW)
    await catalog.aclose()


@pytest.mark.postgresql
async def test_a_catalog_is_not_copied_over_another(tmp_path: Path, url: str) -> None:
    await filled(tmp_path / "catalog.sqlite")
    await filled(tmp_path / "other.sqlite")
    await _fill_postgresql(url)
    with pytest.raises(StorageError, match="already"):
        await copied(tmp_path / "catalog.sqlite", url)
    with pytest.raises(StorageError, match="already"):
        await copied(tmp_path / "catalog.sqlite", tmp_path / "other.sqlite")


@pytest.mark.postgresql
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_a_copy_that_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path, url: str) -> None:
    """The service could not open the file that an administrator had copied its catalog to."""
    await _fill_postgresql(url)
    directory = tmp_path / ".state"
    directory.mkdir()
    os.chown(directory, 1234, 4321)
    await copied(url, directory / "team.sqlite")
    assert names_in(directory) == ["team.sqlite"]
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (directory, directory / "team.sqlite")}
    assert owners == {(1234, 4321)}


@pytest.mark.postgresql
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
async def test_while_it_is_copied_reads_go_on_and_writes_wait(tmp_path: Path, url: str, backend: str) -> None:
    """A write between the copy and the change of the setting would be lost."""
    file = tmp_path / "catalog.sqlite"
    if backend == "sqlite":
        await filled(file)
        catalog, source, target = SqlCatalog(await SqliteDatabase.open(file)), str(file), url
    else:
        await _fill_postgresql(url)
        catalog, source, target = SqlCatalog(await PostgresDatabase.open(Address(url))), url, str(file)
    writing: list[asyncio.Task[Any]] = []

    def report(_rows: int) -> None:
        if not writing:
            writing.append(asyncio.create_task(catalog.database.write(lambda: ask("delete from objects"))))

    def before_release() -> None:
        assert not writing[0].done()

    async def read() -> None:
        while not writing or not writing[0].done():
            await catalog.database.read(lambda: ask_one("select count(*) from objects"))
            await asyncio.sleep(0)

    reading = asyncio.create_task(read())
    done = await copy_catalog(source, target, password=None, before_release=before_release, report=report)
    assert done["objects"] > 0
    await asyncio.gather(reading, *writing)
    assert await catalog.database.read(lambda: ask_one("select count(*) from objects")) == (0,)
    await catalog.aclose()
