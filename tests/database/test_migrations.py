"""Databases of older schemas are brought up to date: with their rows, and beside processes that go on reading."""

import sqlite3
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from catalogs import NOW
from postgresql import shared

from harmonia_py.chunks.work import ChunkFigures
from harmonia_py.database import migrations, sqlite
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.postgresql.sql import definition
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import Transaction, ask

# A pack with two chunks, one of which a recipe uses, of a file that took 100 bytes; nothing had to be looked at.
_ROWS: Final = (
    "insert into nar_files (file_hash, file_size, compression, blob_key, checked_s) values ('a', 100, 'zstd', 'b', 0)",
    "insert into recipes (id, file_hash) values (1, 'a')",
    "insert into packs (id, blob_key, size) values (1, 'packs/a', 30)",
    "insert into chunks (id, chunk_hash, frame_size, pack_id, pack_offset) values (1, x'01', 10, 1, 0)",
    "insert into chunks (id, chunk_hash, frame_size, pack_id, pack_offset) values (2, x'02', 20, 1, 10)",
    "insert into chunk_uses (chunk_id, recipe_id) values (2, 1)",
    "update totals set objects = 1, size = 100 where state = 'stored'",
)


async def test_what_older_chunks_save_is_known_once_their_packs_were_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All chunks were counted by the migration, and readers of NARs in PostgreSQL waited until they were."""
    path = tmp_path / "catalog.sqlite"

    def insert() -> Transaction[None]:
        for row in _ROWS:
            yield from ask(row)

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "versions", lambda: list(range(1, 8)))
        older = await SqliteDatabase.open(path)
        await older.write(insert)
        await older.aclose()
    catalog = SqlCatalog(await SqliteDatabase.open(path))
    assert await catalog.chunk_work.figures() == ChunkFigures(1, 100, 1, 30, 0, 100)
    assert await catalog.repairs.wrong_totals() == []
    (pack,) = await catalog.packs.to_look_at(10, now=NOW)
    await catalog.packs.keep(pack.key, sum(chunk.size for chunk in pack.chunks if chunk.is_used))
    assert await catalog.chunk_work.figures() == ChunkFigures(1, 100, 1, 30, 20, 100)
    assert await catalog.repairs.wrong_totals() == []
    assert await catalog.packs.to_look_at(10, now=NOW) == []
    await catalog.aclose()


@pytest.mark.postgresql
async def test_readers_go_on_while_an_index_is_made_that_takes_the_place_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The older index went first: what reads it waited for all of the new one, and failed after ten seconds."""
    url = shared().database(migrated=False)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "versions", lambda: list(range(1, 9)))
        await (await PostgresDatabase.open(Address(url))).aclose()
    migrating, reading = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        async with migrating.transaction():
            *first, last = migrations.statements(9)
            for statement in first:
                await migrating.execute(definition(statement))
            await reading.execute("set lock_timeout = '2s'")
            assert await reading.fetch("select name from object_documents where cache_id = 1") == []
            await migrating.execute(definition(last))
    finally:
        await migrating.close()
        await reading.close()
    shared().drop(url)


def test_every_file_of_the_schema_is_a_version() -> None:
    files = Path(str(migrations.__file__)).with_name("schema").glob("*.sql")
    assert sorted(int(file.stem) for file in files) == migrations.versions()


async def test_the_header_of_a_database_says_that_its_schema_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker read the whole schema at its start to find out that there was nothing to do: 0.5 MB."""
    path = tmp_path / "catalog.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "versions", lambda: list(range(1, 8)))
        await (await SqliteDatabase.open(path)).aclose()
    connections: list[Path] = []
    connect = sqlite.connect

    def counting(file: Path, *more: int) -> sqlite3.Connection:
        connections.append(file)
        return connect(file, *more)

    monkeypatch.setattr(sqlite, "connect", counting)
    for opened in ([path], []):
        connections.clear()
        await (await SqliteDatabase.open(path)).aclose()
        assert connections == opened
