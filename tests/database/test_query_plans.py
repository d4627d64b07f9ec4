"""What is asked often, or of much, is answered from indexes: no such statement reads all rows of a table."""

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from catalogs import NOW
from postgresql import in_loop, shared

from benchmarks.postgresql_rows import fill
from harmonia_py.database import (
    access,
    awaiting,
    bases,
    blob_keys,
    caches,
    chunk_work,
    chunks,
    collection,
    garbage,
    keepers,
    object_rows,
    objects,
    packs,
    publishing,
    received,
    removing,
    sessions,
    uploads,
)
from harmonia_py.database.object_rows import FILES
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.sqlite import SqliteDatabase, numbered

STATEMENTS = {
    "the longest unused of a cache": collection._OLDEST,
    "some of them again": collection._THESE,
    "condemning them": collection._CONDEMN,
    "what they reference": collection._NEXT,
    "another that references it": collection._REFERRER_AFTER,
    "what is published of some": collection._PUBLISHED,
    "files that nothing needs": object_rows._DROP_FILES,
    "NARs that no file has": object_rows._DROP_NARS,
    "keys that a file has": blob_keys.NAMED_IN["nar_files"],
    "whether any is due": collection._ANY_DUE,
    "what is condemned": collection._CONDEMNED,
    "a closure": collection._CLOSURE_SIZE,
    "what references one": keepers.LIVE_REFERRERS,
    "what is due": removing._DUE,
    "what references what is due": removing._REFERRERS,
    "documents of what goes": removing._DOCUMENTS,
    "documents that nothing keeps": removing._UNKEPT_DOCUMENT,
    "pushed documents that nothing keeps": removing._PUSHED_DOCUMENT,
    "what would keep them": removing._NONE_KEEPS,
    "documents whose objects are not here": removing.LOOSE,
    "pushes that are dead": removing._DEAD,
    "what waited for too long": removing._WAITED,
    "whether anything waits": awaiting._ANY,
    "what waits for a path of the store": awaiting._HERE,
    "builds of a program": bases._SAME,
    "its versions before": bases._BEFORE,
    "its versions behind": bases._BEHIND,
    "which of some are in chunks": bases._FIND,
    "what waits for nothing else": awaiting._READY,
    "a page of what waits for the store": awaiting._PAGE,
    "files of a dead push": received._OF_SESSION,
    "garbage": garbage._CLAIMED,
    "the next objects that may become chunks": chunks._NEXT,
    "which of their files do": chunks._WHOLE.replace("$caches", "3"),
    "which chunks there are": chunks._KNOWN,
    "where they are": chunks._PLACES,
    "their numbers": chunks._IDS,
    "losing one": chunks._LOSE.format(chunks=chunks._ITSELF),
    "losing those of its pack": chunks._LOSE.format(chunks=chunks._ALL_OF_ITS_PACK),
    "which files have one": chunks._FILES_OF.format(chunks=chunks._ITSELF),
    "which files have those of its pack": chunks._FILES_OF.format(chunks=chunks._ALL_OF_ITS_PACK),
    "recipes that nothing has": packs._DROPPED,
    "uses of a recipe": packs._USES,
    "packs of what goes": packs._LOOK,
    "packs of what comes again": packs._LOOK_AT_FORMER,
    "what files were made of": object_rows._DROP_RECIPES,
    "dropping uses": packs._NO_USE,
    "packs to look at": packs._TO_LOOK_AT,
    "packs that were never counted": packs._TO_COUNT,
    "what is in a pack": packs._CHUNKS_IN,
    "dropping what is not used": packs._UNUSED_IN,
    "whether a file is made of chunks": chunks._HAS_RECIPE,
    "packs that are named": blob_keys.NAMED_IN["packs"],
}

# Of chunks and packs there are more than of anything else: every statement, those that are written later as well.
_OF_CHUNKS = (chunks, packs, chunk_work)
_IS_SQL = re.compile(r"\s*(with|select|insert|update|delete)\s", re.IGNORECASE)
# `cache show` asks it, and no server.
_COUNTED = {"_CHUNKED"}
# `max(id)`, of which SQLite says only that it searches the table.
_NUMBERS = {"_NEXT_RECIPE", "_NEXT_PACK", "_NEXT_CHUNK"}
CHUNK_STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": sql.replace("$caches", "3").replace("{chunks}", chunks._ITSELF)
    for module in _OF_CHUNKS
    for name, sql in vars(module).items()
    if isinstance(sql, str) and _IS_SQL.match(sql) and name not in _COUNTED and sql is not FILES
}

WITH_PAGES = [
    "the longest unused of a cache",
    "what is condemned",
    "what is due",
    "the next objects that may become chunks",
    "uses of a recipe",
    "packs to look at",
    "packs that were never counted",
    "what is in a pack",
]

# An index of condemned objects alone is read as a whole where all of them are asked for.
_OF_CONDEMNED = "SCAN o USING INDEX objects_condemned"

# What a recursion, or a query with a limit, has found so far.
_FOUND = {"closure", "c", "CONSTANT", "found", "waiting"}


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    database = await SqliteDatabase.open(tmp_path / "catalog.sqlite")
    await database.aclose()
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as connection:
        yield connection


# PostgreSQL decides by how many documents there are whether it looks each up.
IN_SQLITE = {
    **STATEMENTS,
    "documents of a dead push": removing._UNSEEN_DOCUMENTS,
    "documents that have waited for a week": removing._OLD_DOCUMENTS,
}


@pytest.mark.parametrize("count", [2, 256])
@pytest.mark.parametrize("what", IN_SQLITE)
async def test_no_statement_of_the_collector_reads_all_rows(
    connection: sqlite3.Connection, what: str, count: int
) -> None:
    """Of a short list SQLite takes the key, and of a long one perhaps another index. From some release after 3.40 on it
    read all objects of a cache for each batch."""
    plan = plan_of(connection, numbered(IN_SQLITE[what].replace("$list", ", ".join(["'a'"] * count))))
    assert any("USING" in step for step in plan)
    assert [step for step in plan if step.startswith("SCAN") and step.split()[1] not in _FOUND] == []
    # All rows of a cache are as many as all rows.
    assert [step for step in plan if step.endswith("(cache_id=?)")] == []


@pytest.mark.parametrize("count", [2, 256])
@pytest.mark.parametrize("what", CHUNK_STATEMENTS)
async def test_no_statement_about_chunks_and_packs_reads_all_rows(
    connection: sqlite3.Connection, what: str, count: int
) -> None:
    plan = plan_of(connection, numbered(CHUNK_STATEMENTS[what].replace("$list", ", ".join(["'a'"] * count))))
    plan = [step for step in plan if step != _OF_CONDEMNED]
    assert [step for step in plan if step.startswith("SCAN") and step.split()[1] not in _FOUND] == []
    assert [step for step in plan if step.endswith("(cache_id=?)")] == []
    searches = [step for step in plan if step.startswith("SEARCH")]
    if what.rpartition(".")[2] not in _NUMBERS:
        assert [step for step in searches if "USING" not in step] == []


def test_the_statements_about_chunks_and_packs_are_found() -> None:
    assert len(CHUNK_STATEMENTS) >= 30
    assert {"chunks._PLACES", "packs._UNUSED_IN", "chunk_work._WAITING"} < set(CHUNK_STATEMENTS)


async def test_of_what_is_condemned_in_chunks_no_other_object_is_read(connection: sqlite3.Connection) -> None:
    """All files in chunks were read, and the objects of each looked for: 0.8 s of 200,000 files every ten seconds."""
    objects, files = plan_of(connection, numbered(chunk_work._CONDEMNED))
    assert objects == _OF_CONDEMNED
    assert files.endswith("(file_hash=?)")


@pytest.mark.parametrize("what", WITH_PAGES)
async def test_pages_come_in_the_order_of_an_index(connection: sqlite3.Connection, what: str) -> None:
    """Sorting for each page would read all rows that are left."""
    assert not any("TEMP B-TREE" in step for step in plan_of(connection, numbered(STATEMENTS[what])))


def plan_of(connection: sqlite3.Connection, sql: str) -> list[str]:
    highest = max(map(int, re.findall(r"\?([0-9]+)", sql)), default=0)
    return [row[3] for row in connection.execute(f"explain query plan {sql}", [0] * highest)]


async def test_what_is_asked_of_a_list_is_found_by_the_list(connection: sqlite3.Connection) -> None:
    """Each batch that was condemned read all objects that were as long unused: with a million of them a collection took
    hours."""
    numbers = ", ".join(f"'{number}'" for number in range(256))
    steps = plan_of(connection, numbered(collection._CONDEMN.replace("$list", numbers)))
    assert [step for step in steps if step.startswith("SEARCH o ") and step.endswith("(cache_id=? AND hash_part=?)")]


ALL = (
    STATEMENTS
    | CHUNK_STATEMENTS
    | {
        "a narinfo": object_rows.OBJECT,
        "which of many are here": objects._PRESENT,
        "a use": objects._USED,
        "a document": objects._PUBLISHED_DOCUMENT,
        "a page of a cache": objects._PAGE,
        "what is waited for": objects._WAITS_FOR,
        "reviving what is condemned": object_rows._REVIVE.replace("$2 then $2", "1 then 1").replace("$2", "1"),
        "what stands where something is published": publishing._STANDING,
        "its references": publishing._PRESENT,
        "a file that came": uploads._FIND,
        "files of NARs": sessions._NARS,
        "what a session has brought": sessions._RECEIVED,
        "files that another session has brought": received._HAND_OVER,
        "listings of files that another session has brought": removing.HAND_LISTINGS_OVER,
        "the cache of a name": caches._FIND,
        "a token": access._FIND,
        "a token of a name": access._NAMED,
        "how many tokens a holder has": access._OF_HOLDER,
        "revoking those of a holder": access._REVOKE_HOLDER,
        "tokens that expired": access._SWEEP,
    }
)
IN_ORDER = ("the longest unused of a cache", "what is condemned", "what is due", "a page of a cache")


# What people make: caches, of each a few totals, and pins; and a row for each kind of work. It is read as a whole where
# it is small.
_FEW = {"caches", "totals", "progress", "pins", "pin_revisions"}
_PUSHES = f"""
    insert into sessions select 's' || i, 3, 'token ci', {NOW}, {NOW} from generate_series(1, 2000) i;
    insert into leases select 's' || i % 2000 + 1, 3, hash_part
        from (select hash_part, row_number() over () i from objects) o;
    insert into received select 3, file_hash, blob_key, 's' || i % 2000 + 1, 'received', {NOW} - i
        from (select *, row_number() over () i from nar_files) f;
    insert into received_as_well select 3, file_hash, 's' || i % 2000 + 2
        from (select *, row_number() over () i from nar_files) f where i % 2000 < 1999;
    insert into documents select 3, 'listing', hash_part, 100, null, '', 's1', {NOW} from objects;
    insert into object_documents select 3, hash_part, 'listing', hash_part from objects;
    insert into packs select i, 'pack/' || i, 1, {NOW} from generate_series(1, 5000) i;
    insert into chunks select i, sha256(i::text::bytea), 9, i % 5000 + 1, i, null from generate_series(1, 20000) i;
    insert into recipes select row_number() over (), file_hash, null from nar_files;
    insert into chunk_uses select i, i % 5000 + 1 from generate_series(1, 20000) i;
    insert into tokens (id, name, secret_hash, actions, patterns, created_s, expires_s, holder)
        select 't' || i, 't' || i, '', 'push', '[]', {NOW}, {NOW} + i, 'ci identity ' || i % 50
        from generate_series(1, 20000) i;
    insert into garbage select 'nar/' || i, {NOW}, {NOW}, 0 from generate_series(1, 5000) i;
    analyze;
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database with so many rows that it matters how they are found."""
    url = shared().database()

    async def fill_it() -> None:
        connection = await Address(url).connect()
        try:
            await fill(connection, 3, 5000, now=NOW)
            await connection.execute(_PUSHES)
        finally:
            connection.terminate()

    in_loop(fill_it())
    yield url
    shared().drop(url)


def postgresql_plan_of(url: str, sql: str) -> str:
    """The plan of a statement whose values are not known."""
    sql = sql.replace("$list", "'1', '2'")  # text, a number, or bytes

    async def explain() -> str:
        connection = await Address(url).connect()
        try:
            await connection.execute("set plan_cache_mode = force_generic_plan")
            count = max(map(int, re.findall(r"\$([0-9]+)", sql)), default=0)
            await connection.execute(f"prepare wanted as {sql}")
            nulls = f" ({', '.join(['null'] * count)})" if count else ""
            return "\n".join(row[0] for row in await connection.fetch(f"explain (costs off) execute wanted{nulls}"))
        finally:
            connection.terminate()

    return in_loop(explain())


@pytest.mark.postgresql
@pytest.mark.parametrize("what", ALL)
def test_no_statement_reads_all_rows_of_postgresql(url: str, what: str) -> None:
    plan = postgresql_plan_of(url, ALL[what])
    few = _FEW | ({"leases"} if what == "the longest unused of a cache" else set())  # once for all of a page
    assert set(re.findall(r"Seq Scan on (\w+)", plan)) <= few, plan
    # All rows of a cache are as many as all rows.
    assert [one for one in re.findall(r"Index Cond: (.*)", plan) if re.fullmatch(r"\(cache_id = \S*\)", one)] == [], (
        plan
    )


@pytest.mark.postgresql
def test_of_what_is_condemned_in_chunks_postgresql_reads_no_other_object(url: str) -> None:
    plan = postgresql_plan_of(url, chunk_work._CONDEMNED)
    assert "objects_condemned on objects" in plan, plan


@pytest.mark.postgresql
def test_the_tokens_of_a_holder_are_counted_without_those_of_others(url: str) -> None:
    """Each exchange read the tokens of all holders that had not expired."""
    assert re.search(r"Index Cond: \(\(holder = .*\) AND \(expires_s > ", postgresql_plan_of(url, access._OF_HOLDER))


async def test_the_tokens_of_a_holder_are_counted_without_those_of_others_in_sqlite(
    connection: sqlite3.Connection,
) -> None:
    (step,) = plan_of(connection, numbered(access._OF_HOLDER))
    assert step.endswith("(holder=? AND expires_s>?)")


@pytest.mark.postgresql
@pytest.mark.parametrize("what", IN_ORDER)
def test_pages_of_postgresql_come_in_the_order_of_an_index(url: str, what: str) -> None:
    """Sorting for each page would read all rows that are left."""
    assert "Sort" not in postgresql_plan_of(url, ALL[what])
