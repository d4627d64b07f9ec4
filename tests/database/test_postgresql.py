"""The catalog in PostgreSQL, when the server goes, processes stand still, and others change what is there."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import pytest
from catalogs import NOW
from postgresql import PostgreSQL, shared
from waiting import eventually

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.database import jobs, migrations
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.postgresql import advisory_lock, connections, writer
from harmonia_py.database.postgresql.advisory_lock import AdvisoryLock, _ending_with
from harmonia_py.database.postgresql.changes import Changes
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.postgresql.running import TURN
from harmonia_py.database.postgresql.sql import cast, definition
from harmonia_py.database.transaction import Database, Row, Statement, Topic, Transaction, ask, ask_one
from harmonia_py.errors import CatalogError, StorageError

pytestmark = pytest.mark.postgresql

TIME_LIMIT: Final = 30.0
PUT: Final = "insert into progress (name, value) values ($1, $2)"
GET: Final = "select value from progress where name = $1"
COUNT: Final = "select count(*) from progress"


@asynccontextmanager
async def opened(url: str, password: str | None = None) -> AsyncIterator[PostgresDatabase]:
    database = await PostgresDatabase.open(Address(url, password))
    try:
        yield database
    finally:
        await database.aclose()


@pytest.fixture
def url() -> Iterator[str]:
    url = shared().database()
    yield url
    shared().drop(url)


@pytest.fixture
async def database(url: str) -> AsyncIterator[PostgresDatabase]:
    async with opened(url) as database:
        yield database


def put(name: str, value: str = "") -> Callable[[], Transaction[list[Row]]]:
    return lambda: ask(PUT, name, value)


async def names(database: Database) -> list[str]:
    rows = await database.read(lambda: ask("select name from progress order by name"))
    return [row[0] for row in rows]


async def test_a_transaction_that_raises_is_undone_and_those_beside_it_are_not(database: PostgresDatabase) -> None:
    def fails() -> Transaction[None]:
        yield Statement(PUT, ("gone", ""))
        raise LookupError

    def is_wrong() -> Transaction[None]:
        yield Statement(PUT, ("gone too", ""))
        yield Statement("select 1 / 0")

    work: list[Any] = [database.write(put("a")), database.write(fails), database.write(is_wrong)]
    done = await asyncio.gather(*work, database.write(put("b")), return_exceptions=True)
    assert [type(one) for one in done] == [list, LookupError, StorageError, list]
    assert await names(database) == ["a", "b"]


async def test_what_a_transaction_reads_is_of_one_moment(database: PostgresDatabase) -> None:
    """Another transaction is committed between its two questions."""
    halfway, written = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        await halfway.wait()
        await database.write(put("new"))
        written.set()

    def twice() -> Transaction[tuple[Row | None, Row | None]]:
        first = yield from ask_one(COUNT)
        yield from ask("select pg_sleep(0.3)")
        asyncio.get_running_loop().call_soon(halfway.set)
        yield from ask("select pg_sleep(0.3)")
        assert written.is_set()
        return first, (yield from ask_one(COUNT))

    writing = asyncio.create_task(write())
    first, second = await database.read(twice)
    await writing
    assert first == second
    assert await names(database) == ["new"]


async def test_numbers_of_64_bits_and_text_go_where_nothing_says_their_type(database: PostgresDatabase) -> None:
    """PostgreSQL takes `$1 - 86400` for 32 bits, and times end there in 2038."""
    late = 5_000_000_000
    row = await database.read(lambda: ask_one("select $1 - 86400, $2 || '!', $3", late, "text", b"\0\xff"))
    assert row == (late - 86_400, "text!", b"\0\xff")


def test_a_parameter_without_a_value_has_the_type_of_its_place() -> None:
    assert cast("select $1, $2, $10", [1, None, *"3456789", b""]) == "select $1::bigint, $2, $10::bytea"


def test_there_are_more_ids_than_32_bits_have() -> None:
    asked = "create table a (id integer primary key, b_id integer not null, cache_id integer, flag integer, c text)"
    wanted = "create table a (id bigint primary key, b_id bigint not null, cache_id integer, flag integer"
    assert definition(asked) == f'{wanted}, c text collate "C")'


async def test_pages_come_in_the_order_of_bytes(database: PostgresDatabase) -> None:
    """In the order of a language `.store` comes after `0`, and capitals beside small letters."""
    wanted = sorted(["a", "B", "-x", ".x", "b", "é", "z", "0"])
    for name in wanted:
        await database.write(put(name))
    assert await names(database) == wanted


async def test_writers_of_several_processes_are_each_alone(database: PostgresDatabase, url: str) -> None:
    """Each adds one to what it reads: none is lost."""

    def add_one() -> Transaction[None]:
        row = yield from ask_one(GET, "count")
        assert row is not None
        yield from ask("update progress set value = $1 where name = 'count'", str(int(row[0]) + 1))

    await database.write(put("count", "0"))
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(opened(url)) for _ in range(3)]
        await asyncio.gather(*(one.write(add_one) for one in others for _ in range(40)))
    assert await database.read(lambda: ask_one(GET, "count")) == ("120",)


async def test_a_change_is_told_to_other_processes_at_once(database: PostgresDatabase, url: str) -> None:
    async with opened(url) as other:
        memory = other.watch(Topic.ACCESS)
        before, objects = memory[0], other.generation(Topic.OBJECTS)
        assert before % 2 == 0
        assert other.generation(Topic.ACCESS) == before
        await database.write(put("a"), Topic.ACCESS)
        await eventually(lambda: memory[0] != before)
        await eventually(lambda: other.generation(Topic.ACCESS) is not None)
        assert other.generation(Topic.OBJECTS) == objects, "another topic"


async def test_what_a_process_changes_it_knows_when_it_is_done(database: PostgresDatabase) -> None:
    before = database.generation(Topic.OBJECTS)
    await database.write(put("a"), Topic.OBJECTS)
    after = database.generation(Topic.OBJECTS)
    assert None not in (before, after)
    assert before != after


async def test_a_change_that_is_made_after_it_was_given_up_is_heard_of(database: PostgresDatabase, url: str) -> None:
    """The connection was lost during the commit. Its notification was taken for our own, and old answers stayed."""
    changes, told = database._changes, ""
    with suppress(ConnectionResetError), changes.changing([Topic.OBJECTS]):
        told = changes.notification([Topic.OBJECTS])
        raise ConnectionResetError
    before = database.generation(Topic.OBJECTS)
    assert before is not None
    shared().execute(told, url)
    await eventually(lambda: database.generation(Topic.OBJECTS) not in {None, before})


async def test_a_newer_schema_is_used_by_the_release_before_it_and_by_none_older(url: str) -> None:
    """Replicas are replaced one by one: the first new one has migrated, and an old one is started again."""
    newest = migrations.versions()[-1]
    shared().execute(f"insert into migrations (version, applied_s) values ({newest + 1}, 0)", url)
    async with opened(url) as database:
        await database.write(put("a"))
    shared().execute(f"insert into migrations (version, applied_s) values ({newest + 2}, 0)", url)
    with pytest.raises(CatalogError, match="start the newer one again"):
        await PostgresDatabase.open(Address(url))


async def test_of_processes_that_start_together_one_makes_the_schema() -> None:
    url = shared().database(migrated=False)
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(opened(url)) for _ in range(6)]
        catalogs = [SqlCatalog(database) for database in await asyncio.gather(*opening)]
        await catalogs[0].caches.create(CacheName("team"), CacheSettings(), declared=False, now=NOW)
        assert all([await catalog.caches.find(CacheName("team")) for catalog in catalogs])
    shared().drop(url)


async def test_one_process_at_a_time_collects(database: PostgresDatabase, url: str) -> None:
    async with opened(url) as other:
        async with database.collecting() as ours, other.collecting() as theirs:
            assert (ours, theirs) == (True, False)
        async with other.collecting() as theirs:
            assert theirs


async def test_when_the_housekeeper_ends_another_process_is_it(database: PostgresDatabase, url: str) -> None:
    async with opened(url) as other:
        async with database.housekeeping() as ours, other.housekeeping() as theirs, other.collecting() as collects:
            assert (ours, theirs, collects) == (True, False, True)
        async with other.housekeeping() as theirs:
            assert theirs


async def test_what_is_done_under_the_lock_ends_with_the_connection_that_holds_it(url: str) -> None:
    """A database that restarts has forgotten what collects: two would, and one deletes what the other has kept anew."""
    lock, waited = AdvisoryLock(Address(url), "test", 9, rest_seconds=0.2), asyncio.get_running_loop().time

    async def collect() -> None:
        async with lock.hold() as is_ours:
            assert is_ours
            shared().execute(
                "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted", url
            )
            await asyncio.sleep(TIME_LIMIT)

    with pytest.raises(StorageError, match="was lost"):
        await collect()
    begun = waited()
    async with lock.hold() as is_ours:
        assert is_ours
        assert waited() - begun >= 0.2, "what the one before was deleting may still be under way"


async def test_a_connection_that_is_lost_at_the_end_cancels_nothing_that_comes_after(url: str) -> None:
    """asyncpg tells of it a turn of the loop later, and the task was cancelled that had gone on to something else."""
    connection, task = await Address(url).connect(), asyncio.current_task()
    assert task is not None
    async with _ending_with(connection):
        connection.terminate()
    await asyncio.sleep(0)
    assert task.cancelling() == 0


class LossyNetwork:
    """The way to a server, on which all that comes over one connection from some moment on is lost.

    Args:
        port: of the server.
        loses: whether these bytes of the client, and all after them, are lost; `number` counts connections from 1.

    Attributes:
        connections: how many there were.
        has_lost: whether anything was lost.
    """

    def __init__(self, port: int, loses: Callable[[int, bytes], bool]) -> None:
        self._port = port
        self._loses = loses
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.has_lost = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[int]:
        """Its port."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number, lost = self.connections, False
        there, back = await asyncio.open_connection("127.0.0.1", self._port)

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_client: bool) -> None:
            nonlocal lost
            try:
                while data := await source.read(65_536):
                    lost = lost or (is_client and self._loses(number, data))
                    if lost:
                        self.has_lost = True
                    else:
                        sink.write(data)
            finally:
                sink.close()

        for source, sink, is_client in ((reader, back, True), (there, writer, False)):
            self._tasks.add(asyncio.create_task(pass_on(source, sink, is_client=is_client)))


def through(url: str, port: int) -> str:
    """The URL of a database that is reached by way of another port."""
    return url.replace(f":{shared().port}/", f":{port}/")


async def test_a_network_that_loses_the_first_connection_is_a_pause(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of a connection was taken for that of the whole transaction, which was not begun anew."""
    monkeypatch.setattr(connections, "_CONNECT_SECONDS", 0.2)
    network = LossyNetwork(shared().port, lambda number, _: number == 1)
    async with network.opened() as port:
        pool = connections.Connections(Address(through(url, port)), 1)
        assert await pool.do(lambda connection: connection.fetchval("select 1")) == 1
        await pool.aclose()
    assert network.has_lost
    assert network.connections == 2


async def test_a_network_that_loses_the_wish_to_hear_of_changes_is_a_pause(url: str) -> None:
    """The answer was waited for without an end, and answers of before were looked up each time for as long."""
    network = LossyNetwork(shared().port, lambda number, data: number == 1 and b"LISTEN" in data)
    async with network.opened() as port:
        heard = Changes(Address(through(url, port)))
        listening = asyncio.create_task(heard.run())
        await eventually(lambda: heard.generation(Topic.OBJECTS) is not None)
        listening.cancel()
        await asyncio.wait([listening])
    assert network.has_lost


@pytest.mark.parametrize("lost", [b"pg_try_advisory_lock", b"select value", b"insert into"])
async def test_a_network_that_loses_a_question_for_the_lock_holds_up_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch, lost: bytes
) -> None:
    monkeypatch.setattr(advisory_lock, "_ANSWER_SECONDS", 0.2)
    network = LossyNetwork(shared().port, lambda _, data: lost in data)
    async with network.opened() as port, asyncio.timeout(TIME_LIMIT):
        lock = AdvisoryLock(Address(through(url, port)), "test", 9, rest_seconds=0.0)
        with pytest.raises(StorageError):
            await lock.hold().__aenter__()
    assert network.has_lost


async def test_a_network_that_loses_the_end_of_the_lock_holds_up_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisory_lock, "_ANSWER_SECONDS", 0.2)
    network = LossyNetwork(shared().port, lambda _, data: b"delete from progress" in data)
    async with network.opened() as port, asyncio.timeout(TIME_LIMIT):
        lock = AdvisoryLock(Address(through(url, port)), "test", 9, rest_seconds=0.0)
        async with lock.hold() as is_ours:
            assert is_ours
    assert network.has_lost


async def test_a_password_is_in_no_message() -> None:
    address = Address("postgresql://someone@127.0.0.1:1/none", "the-secret")
    assert "the-secret" not in repr(address)


@pytest.fixture(scope="module")
def own() -> Iterator[PostgreSQL]:
    """A server that a test may stop, with everything durable."""
    with PostgreSQL("idle_in_transaction_session_timeout=0") as server:
        yield server


async def test_a_restart_of_the_server_is_a_pause(own: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and writes that are under way are begun anew, none is done twice, and changes are heard of again."""
    for module in (connections, jobs):  # a machine that does much else restarts it in more than ten seconds
        monkeypatch.setattr(module, "WAIT_SECONDS", 60.0)
    url = own.database()
    async with opened(url) as database, opened(url) as other:
        wanted = [f"{number:03}" for number in range(200)]
        ended = asyncio.Event()

        async def write() -> None:
            for name in wanted:
                await database.write(put(name))
            ended.set()

        async def read() -> None:
            while not ended.is_set():
                await other.read(lambda: ask_one(COUNT))

        writing = asyncio.create_task(write()), asyncio.create_task(read())
        for how in (signal.SIGQUIT, signal.SIGINT):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(own.restart, how)
        await asyncio.gather(*writing)
        assert await names(database) == wanted
        await eventually(lambda: other.generation(Topic.OBJECTS) is not None)


async def test_while_the_server_is_away_nothing_is_answered_from_memory_and_then_it_fails(
    own: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WAIT_SECONDS", 0.5)
    url = own.database()
    async with opened(url) as database:
        memory = database.watch(Topic.OBJECTS)
        assert database.generation(Topic.OBJECTS) is not None
        await asyncio.to_thread(own.stop)
        try:
            await eventually(lambda: database.generation(Topic.OBJECTS) is None)
            assert memory[0] % 2 == 1
            with pytest.raises(StorageError):
                await database.read(lambda: ask_one(COUNT))
            with pytest.raises(StorageError):
                await database.write(put("a"))
        finally:
            await asyncio.to_thread(own.start)
        await eventually(lambda: database.generation(Topic.OBJECTS) is not None)
        assert await names(database) == []


async def test_a_commit_whose_answer_was_lost_is_not_done_again(database: PostgresDatabase) -> None:
    """The connection goes after the commit and before its answer: the number of the transaction says that it was made.

    Done again, this write would fail: the name is there already.
    """
    theirs = database._writer
    write = theirs._write
    lost = 0

    async def write_and_lose(connection: Any, jobs: Any, begun: list[int]) -> None:
        nonlocal lost
        await write(connection, jobs, begun)
        if not lost:
            lost += 1
            connection.terminate()
            raise ConnectionResetError

    theirs._write = write_and_lose  # type: ignore[method-assign]  # as said
    await database.write(put("once"))
    assert lost == 1
    assert await names(database) == ["once"]


async def test_a_commit_of_which_a_crash_left_nothing_was_not_made(url: str) -> None:
    """The server said that its number is in the future, and the change failed: it was not begun anew."""
    connection = await Address(url).connect()
    number = int(await connection.fetchval("select pg_current_xact_id()::text"))
    assert not await writer._was_committed(connection, "process", number + 1_000_000)
    connection.terminate()


async def test_a_commit_whose_number_a_crash_gave_to_another_was_not_made(database: PostgresDatabase, url: str) -> None:
    """The server crashed before the commit was on its disk, and another process was the first to write after that.

    Its transaction had the number, and was taken for the one that was lost: a change was reported as made.
    """
    other = await Address(url).connect()
    theirs = database._writer
    write = theirs._write
    lost = 0

    async def crash_and_give_it_again(connection: Any, jobs: Any, begun: list[int]) -> None:
        nonlocal lost
        if lost:
            await write(connection, jobs, begun)
            return
        lost += 1
        begun.append(int(await other.fetchval("select pg_current_xact_id()::text")))
        raise ConnectionResetError

    theirs._write = crash_and_give_it_again  # type: ignore[method-assign]  # as said
    await database.write(put("once"))
    other.terminate()
    assert lost == 1
    assert await names(database) == ["once"]


async def test_processes_that_have_not_written_for_a_day_are_forgotten(database: PostgresDatabase, url: str) -> None:
    """Each process has a row, and ends by a signal as well."""
    connection = await Address(url).connect()
    await connection.execute("insert into writers values ('gone', 1, extract(epoch from now()) - 90000)")
    await connection.execute("insert into writers values ('here', 2, extract(epoch from now()) - 80000)")
    await database.write(put("a"))
    await database.write(put("b"))
    rows = await connection.fetch("select process from writers")
    connection.terminate()
    assert {row[0] for row in rows} == {"here", database._writer._process}


async def test_a_process_that_stands_still_in_its_turn_holds_up_the_others_for_seconds(
    database: PostgresDatabase, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped, or its machine is gone: the server ends its transaction."""
    monkeypatch.setitem(connections._SETTINGS, "idle_in_transaction_session_timeout", "300ms")
    frozen = await Address(url).connect()
    await frozen.execute(f"begin; insert into progress values ('frozen', ''); select {TURN}")
    await database.write(put("a"))
    assert await names(database) == ["a"]
    frozen.terminate()
