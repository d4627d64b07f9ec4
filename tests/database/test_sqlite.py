"""SQLite under the catalog: writers take turns over processes, readers never wait, failures are told."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from waiting import eventually

from harmonia_py.database import jobs, migrations, sqlite
from harmonia_py.database.checkpoints import COMMITS
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_for_each, ask_many, ask_one
from harmonia_py.database.turns import Turns
from harmonia_py.errors import CatalogError, StorageError, StorageFull

PUT = "insert into progress (name, value) values ($1, $2)"
GET = "select value from progress where name = $1"
COUNT = "select count(*) from progress"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog" / "catalog.sqlite"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    database = await SqliteDatabase.open(path)
    yield database
    await database.aclose()


def get(name: str) -> Transaction[str | None]:
    row = yield from ask_one(GET, name)
    return None if row is None else row[0]


def count() -> Transaction[int]:
    row = yield from ask_one(COUNT)
    assert row is not None
    return int(row[0])


async def test_a_transaction_that_raises_is_undone_and_those_beside_it_are_not(database: SqliteDatabase) -> None:
    def put(number: int) -> Transaction[int]:
        yield from ask(PUT, str(number), "x")
        if number % 3 == 0:
            raise KeyError(number)
        return number

    results = await asyncio.gather(*[database.write(partial(put, n)) for n in range(300)], return_exceptions=True)
    for number, result in enumerate(results):
        assert isinstance(result, KeyError) if number % 3 == 0 else result == number
    assert await database.read(count) == 200


async def test_what_was_written_is_there_after_a_new_start(database: SqliteDatabase, path: Path) -> None:
    await database.write(lambda: ask(PUT, "a", "1"))
    await database.aclose()
    again = await SqliteDatabase.open(path)
    assert await again.read(lambda: get("a")) == "1"
    await again.aclose()
    with pytest.raises(StorageError):
        await again.read(count)


async def test_a_list_may_be_of_any_length(database: SqliteDatabase) -> None:
    for length in (0, 1, 2, 4, 5, 63, 256, 257, 1000):
        values = [f"n{number}" for number in range(length)]
        await database.write(partial(ask_many, PUT, [(value, "x") for value in values]))
        found = "select name from progress where value = $1 and name in ($list)"
        rows = await database.read(partial(ask_for_each, found, values, "x"))
        assert sorted({row[0] for row in rows}) == sorted(values)
        await database.write(lambda: ask("delete from progress"))


async def test_a_reader_does_not_wait_for_a_writer(database: SqliteDatabase, path: Path) -> None:
    """A read that came while another process had its turn to write waited until that was done."""
    await database.write(lambda: ask(PUT, "a", "1"))
    turns = Turns(path.with_suffix(".lock"))
    with turns.take():
        waiting = asyncio.create_task(database.write(lambda: ask(PUT, "b", "2")))
        for _ in range(50):
            assert await database.read(lambda: get("a")) == "1"
        assert await database.read(lambda: get("b")) is None
        assert not waiting.done()
    await waiting
    assert await database.read(lambda: get("b")) == "2"
    turns.close()


async def test_a_read_does_not_wait_for_a_scan(database: SqliteDatabase) -> None:
    endless = "with recursive n (x) as (select 1 union all select x + 1 from n) select max(x) from n"
    scan = asyncio.create_task(database.scan(lambda: ask(endless)))
    for _ in range(20):
        assert await database.read(count) == 0
    assert not scan.done()
    scan.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scan
    assert await database.scan(count) == 0  # it has ended: the thread would not be free otherwise


async def test_what_takes_too_long_is_given_up(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in (sqlite, jobs):
        monkeypatch.setattr(one, "WAIT_SECONDS", 0.2)
    endless = "with recursive n (x) as (select 1 union all select x + 1 from n) select max(x) from n"
    with pytest.raises(StorageError):
        await database.read(lambda: ask(endless))
    monkeypatch.undo()
    assert await database.read(count) == 0


async def test_more_than_can_wait_is_refused_at_once(
    database: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_QUEUE", 8)
    few = await SqliteDatabase.open(path)
    turns = Turns(path.with_suffix(".lock"))
    with turns.take():
        writes = [asyncio.create_task(few.write(partial(ask, PUT, str(n), "x"))) for n in range(200)]
        refused = 0
        while refused < 100:
            done, _ = await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                assert isinstance(one.exception(), StorageError)
            refused += len(done)
            writes = [one for one in writes if one not in done]
    await asyncio.gather(*writes)
    assert await few.read(count) == 200 - refused
    await few.aclose()
    turns.close()


async def test_a_change_is_told_when_it_is_done_and_while_it_is_not(database: SqliteDatabase, path: Path) -> None:
    turns = Turns(path.with_suffix(".lock"))
    before = turns.generation(Topic.ACCESS)
    assert before == database.generation(Topic.ACCESS)
    with turns.take(), turns.changing([Topic.ACCESS]):
        assert database.generation(Topic.ACCESS) is None
        assert database.generation(Topic.OBJECTS) is not None
    after = database.generation(Topic.ACCESS)
    assert after not in (None, before)
    turns.close()


@pytest.mark.parametrize("topics", [[Topic.ACCESS], []], ids=["the same", "another"])
async def test_a_writer_that_died_in_a_change_leaves_nothing_to_rely_on_until_the_next_writer(
    database: SqliteDatabase, path: Path, topics: list[Topic]
) -> None:
    """Until the next change of the same topic, which may take days, every narinfo was looked up."""
    before = database.generation(Topic.ACCESS)
    program = f"""
import os
from pathlib import Path
from harmonia_py.database.transaction import Topic
from harmonia_py.database.turns import Turns
turns = Turns(Path({str(path.with_suffix(".lock"))!r}))
with turns.take(), turns.changing([Topic.ACCESS]):
    os._exit(0)
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)
    assert database.generation(Topic.ACCESS) is None
    await database.write(lambda: ask(PUT, "a", "1"), *topics)
    assert database.generation(Topic.ACCESS) not in (None, before)


WRITER = """
import asyncio, sys
from pathlib import Path
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import ask

async def main():
    database = await SqliteDatabase.open(Path(sys.argv[1]))
    number = 0
    while True:
        await database.write(lambda: ask("insert into progress values ($1, $2)", f"{sys.argv[2]}-{number}", "x"))
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_what_a_killed_process_was_told_is_written_and_others_go_on(database: SqliteDatabase, path: Path) -> None:
    """A process that was killed while it had its turn left the others waiting, or lost what it had been told."""
    for round_ in range(4):
        arguments = [sys.executable, "-c", WRITER, str(path), str(round_)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:  # noqa: ASYNC220
            assert writer.stdout is not None
            told = -1
            while told < 20 + round_:
                told = int(await asyncio.to_thread(writer.stdout.readline))
                await database.write(partial(ask, PUT, f"ours-{round_}-{told}", "x"))
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split()
            told = int(rest[-1]) if rest else told
        for number in range(told + 1):
            assert await database.read(partial(get, f"{round_}-{number}")) == "x"
            assert number > 20 or await database.read(partial(get, f"ours-{round_}-{number}")) == "x"


async def test_writers_of_several_processes_take_turns(database: SqliteDatabase, path: Path) -> None:
    """SQLite's own waiting left one of three writers waiting for seconds."""
    arguments = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*arguments, name], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        for name in ("one", "two")
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert await asyncio.to_thread(writer.stdout.readline) == "0\n"
        longest = 0.0
        for number in range(60):
            begun = time.monotonic()
            await database.write(partial(ask, PUT, f"three-{number}", "x"))
            longest = max(longest, time.monotonic() - begun)
    finally:
        for writer in writers:
            writer.kill()
            await asyncio.to_thread(writer.communicate)
    assert longest < 5
    counts = await database.read(lambda: ask("select substr(name, 1, 3), count(*) from progress group by 1"))
    assert {name for name, _ in counts} == {"one", "two", "thr"}


async def test_a_full_disk_is_told_as_such_and_the_catalog_still_reads(database: SqliteDatabase, path: Path) -> None:
    await database.write(lambda: ask(PUT, "a", "1"))
    pages = await database.write(lambda: ask("pragma page_count"))
    await database.write(lambda: ask(f"pragma max_page_count = {pages[0][0]}"))
    with pytest.raises(StorageFull):
        await database.write(lambda: ask(PUT, "b", "x" * 100_000))
    assert await database.read(lambda: get("a")) == "1"
    await database.write(lambda: ask("pragma max_page_count = 1000000"))
    await database.write(lambda: ask(PUT, "b", "x" * 100_000))


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    await asyncio.to_thread(path.write_bytes, b"no database" * 1000)
    with pytest.raises(CatalogError):
        await SqliteDatabase.open(path)


async def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        await SqliteDatabase.open(tmp_path / "file" / "catalog.sqlite")


@pytest.mark.parametrize("said", [0, 9999], ids=["nowhere else", "in the header"])
async def test_the_catalog_of_a_newer_release_is_refused_in_words(
    database: SqliteDatabase, path: Path, said: int
) -> None:
    await database.aclose()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("insert into migrations values (9999, 0)")
        connection.execute(f"pragma user_version = {said}")
        connection.commit()
    with pytest.raises(CatalogError, match="schema 9999, this release knows none after"):
        await SqliteDatabase.open(path)


OPEN_AND_CLOSE = """
import asyncio, sys
from pathlib import Path
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import ask

async def main():
    database = await SqliteDatabase.open(Path(sys.argv[1]))
    await database.read(lambda: ask("select count(*) from migrations"))
    await database.aclose()

asyncio.run(main())
"""


async def test_a_catalog_that_is_open_twice_stays_open_for_other_processes(
    database: SqliteDatabase, path: Path
) -> None:
    """To read the header of the file dropped the locks of the process: another one deleted the log under it."""
    await database.write(lambda: ask(PUT, "a", "1"))
    await (await SqliteDatabase.open(path)).aclose()
    again = await SqliteDatabase.open(path)
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", OPEN_AND_CLOSE, str(path)], check=True)
    await database.write(lambda: ask(PUT, "b", "2"))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("select count(*) from progress where name in ('a', 'b')").fetchone() == (2,)
    await again.aclose()


async def test_processes_that_start_together_make_one_catalog(path: Path) -> None:
    databases = await asyncio.gather(*[SqliteDatabase.open(path) for _ in range(8)])
    await asyncio.gather(*[one.write(partial(ask, PUT, str(n), "x")) for n, one in enumerate(databases)])
    assert await databases[0].read(count) == 8
    await asyncio.gather(*[one.aclose() for one in databases])


async def test_a_migration_that_fails_leaves_the_catalog_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = migrations.statements
    monkeypatch.setattr(migrations, "statements", lambda version: iter([*real(version), "create nonsense"]))
    with pytest.raises(StorageError):
        await SqliteDatabase.open(path)
    monkeypatch.undo()
    database = await SqliteDatabase.open(path)
    assert await database.read(count) == 0
    await database.aclose()


async def test_only_the_owner_reads_the_catalog(database: SqliteDatabase, path: Path) -> None:
    await database.write(lambda: ask(PUT, "a", "1"))
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


async def test_what_is_committed_is_copied_from_the_log_while_the_database_is_in_use(
    database: SqliteDatabase, path: Path
) -> None:
    """The writer copied the log itself, every thousand pages: each tenth path of a push waited for it."""
    before = (await asyncio.to_thread(path.stat)).st_size
    for number in range(4 * COMMITS):
        await database.write(partial(ask, PUT, str(number), "x" * 4096))
    await eventually(lambda: path.stat().st_size > before)
    assert await database.read(count) == 4 * COMMITS
