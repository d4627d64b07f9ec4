"""A `Database` over SQLite: one thread that reads, one that scans, one that writes, each begun when first needed.

Readers see the last commit and never wait for a writer (WAL). Writers take turns over all processes (`Turns`), and what
waits while one transaction is made durable goes into the next one together: the disk is waited for once for all. A
fourth thread copies what was committed from the log into the database (`Checkpoints`).
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import lru_cache, partial
from pathlib import Path
from re import compile as regex
from typing import Any, Final, Self, TypeVar

from harmonia_py.database import migrations
from harmonia_py.database.checkpoints import Checkpoints
from harmonia_py.database.collecting_lock import CollectingLock
from harmonia_py.database.jobs import WAIT_SECONDS, Job
from harmonia_py.database.sqlite_worker import Worker, storage_error, translated
from harmonia_py.database.transaction import Row, Statement, Together, Topic, Transaction
from harmonia_py.database.turns import Turns
from harmonia_py.errors import StorageError

T = TypeVar("T")

BUSY_SECONDS: Final = 5.0
"""How long a reader waits for a lock: while the log is recovered after a crash, or another program has the file."""
# Instructions of SQLite's machine between two looks at the clock: some hundred microseconds.
_INSTRUCTIONS: Final = 10_000
_CACHE_KIB: Final = 2048
# A transaction of the collector changes some thousand pages all over the file: pages that do not fit are written twice.
_WRITER_CACHE_KIB: Final = 8192
_STATEMENTS: Final = 256
# Pages in the log after which the writer itself copies them into the database, where `Checkpoints` cannot keep up with
# writers that never pause: 64 MiB. A transaction of the collector changes half as many in a large catalog; when the log
# was copied after each, a page was copied anew for most of the rows on it.
_MAX_LOG_PAGES: Final = 16384

LOCK_SUFFIX: Final = ".collecting"
"""The suffix of the file beside the database that is locked by the process that collects."""

_PARAMETER: Final = regex(r"\$([0-9]+)")


class SqliteDatabase:
    """One process's view of the database. Made by `open`, inside the event loop that uses it, after any fork.

    Attributes:
        generation, watch, collecting: as in `Database`.
    """

    def __init__(self, path: Path, turns: Turns) -> None:
        self._turns = turns
        self.generation, self.watch = turns.generation, turns.watch
        self.collecting = CollectingLock(path.with_suffix(LOCK_SUFFIX)).hold
        self._closed = False
        self._reader = Worker("catalog-read", partial(connect, path), self._run_reads)
        self._scanner = Worker("catalog-scan", partial(connect, path), self._run_reads)
        self._writer = Worker("catalog-write", partial(connect, path, _WRITER_CACHE_KIB), self._run_writes)
        # How the writer's connection is set; it begins with neither.
        self._waits_for_disk: bool | None = None
        self._checkpoints = Checkpoints(partial(connect, path))

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Make the database where there is none, and bring it up to date.

        Raises:
            CatalogError: it is damaged, or was used by a newer release.
            StorageError: it cannot be opened or written.
        """
        turns = await asyncio.to_thread(_prepare, path)
        return cls(path, turns)

    async def read(self, transaction: Callable[[], Transaction[T]]) -> T:
        """As in `Database`."""
        return await self._reader.do(Job(transaction))

    async def scan(self, transaction: Callable[[], Transaction[T]]) -> T:
        """As in `Database`."""
        return await self._scanner.do(Job(transaction))

    async def write(self, transaction: Callable[[], Transaction[T]], *changes: Topic, durable: bool = True) -> T:
        """As in `Database`. When it raises because it took too long, it may still be done later."""
        return await self._writer.do(Job(transaction, changes, durable=durable))

    @asynccontextmanager
    async def housekeeping(self) -> AsyncIterator[bool]:
        """As in `Database`: all processes are of one machine, where one worker is told to do it."""
        yield True

    async def aclose(self) -> None:
        """As in `Database`."""
        if self._closed:
            return
        self._closed = True
        ended = [await asyncio.to_thread(worker.close) for worker in (self._reader, self._scanner, self._writer)]
        ended.append(await asyncio.to_thread(self._checkpoints.close))
        if all(ended):  # a thread that hangs in the kernel would otherwise find the descriptor of another file
            self._turns.close()

    def _run_reads(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> None:
        for job in jobs:
            with translated(job):
                end = time.monotonic() + WAIT_SECONDS
                connection.set_progress_handler(partial(_is_over, end, job), _INSTRUCTIONS)
                connection.execute("begin")
                try:
                    job.result = _run(connection, job.transaction())
                finally:
                    _end(connection, "rollback")
            job.finish()

    def _run_writes(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> None:
        """Several transactions as one, each undone by itself when it raises."""
        changes = {topic for job in jobs for topic in job.changes}
        try:
            with self._turns.take():
                self._write(connection, jobs, changes)
        except (sqlite3.Error, OSError, StorageError) as error:
            for job in jobs:
                job.error = storage_error(error)
        for job in jobs:
            job.finish()

    def _write(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]], changes: Collection[Topic]) -> None:
        # A commit is in the log at once, and there in the order of commits; only `full` waits for the disk as well.
        durable = any(job.durable for job in jobs)
        if durable is not self._waits_for_disk:
            connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
            self._waits_for_disk = durable
        before = connection.total_changes
        connection.execute("begin immediate")
        try:
            if len(jobs) == 1:
                # To undo it alone, no savepoint need keep a copy of each page that it changes.
                with translated(jobs[0]):
                    jobs[0].result = _run(connection, jobs[0].transaction())
                if jobs[0].error is not None:
                    return
            else:
                for job in jobs:
                    _run_one_of_several(connection, job)
            with self._turns.changing(changes):
                connection.execute("commit")
        finally:
            _end(connection, "rollback")
        self._checkpoints.committed(connection.total_changes - before)


def _prepare(path: Path) -> Turns:
    """Migrate under the lock: of several processes that start together, one does it and the others wait."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        turns = Turns(path.with_suffix(".lock"))
    except OSError as error:
        raise storage_error(error) from error
    try:
        with turns.take():
            path.touch(mode=0o600)
            path.with_suffix(LOCK_SUFFIX).touch(mode=0o600)
            if not _is_current(path):
                _migrate(path)
    except (OSError, sqlite3.Error) as error:
        turns.close()
        raise storage_error(error) from error
    except BaseException:
        turns.close()
        raise
    return turns


def _is_current(path: Path) -> bool:
    """Whether the database says that its schema is the newest that is known.

    This question reads no schema, which takes each worker a megabyte. It is SQLite's to ask: to open and close the file
    here would drop the locks by which it knows in this process that others have the database open.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=BUSY_SECONDS, uri=True)) as reader:
            (version,) = reader.execute("pragma user_version").fetchone()
    except sqlite3.OperationalError:  # a log that only a connection which may write can read
        return False
    return bool(version == migrations.versions()[-1])


def _migrate(path: Path) -> None:
    connection = connect(path)
    try:
        # A migration that a power cut undoes is done again; what is committed later makes it durable.
        connection.execute("pragma synchronous = normal")
        while _step(connection):
            pass
        connection.execute(f"pragma user_version = {migrations.versions()[-1]}")
    finally:
        connection.close()


def _step(connection: sqlite3.Connection) -> bool:
    connection.execute("begin immediate")
    try:
        done = _run(connection, migrations.next_step(int(time.time())))
        connection.execute("commit")
    finally:
        _end(connection, "rollback")
    return done


def connect(path: Path, cache_kib: int = _CACHE_KIB) -> sqlite3.Connection:
    """A connection, which waits for a moment where another process locks the file."""
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
    )
    try:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma foreign_keys = on")
        connection.execute(f"pragma cache_size = -{cache_kib}")
        connection.execute(f"pragma wal_autocheckpoint = {_MAX_LOG_PAGES}")
        # The journal that undoes a statement is needed until the statement ends.
        connection.execute("pragma temp_store = memory")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_over(end: float, job: Job[Any]) -> bool:
    """Whether a statement is to be given up: it takes too long, or nothing waits for its rows any more."""
    return job.future.done() or time.monotonic() > end


def _run(connection: sqlite3.Connection, transaction: Transaction[T]) -> T:
    rows: list[Row] | None = None
    while True:
        try:
            statement = next(transaction) if rows is None else transaction.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            rows = _rows(connection, statement)
        except BaseException:
            transaction.close()
            raise


def _rows(connection: sqlite3.Connection, statement: Statement | Together) -> list[Row]:
    if isinstance(statement, Together):
        for one in statement.statements:
            _rows(connection, one)
        return []
    sql = numbered(statement.sql)
    if statement.many is not None:
        connection.executemany(sql, statement.many)
        return []
    return connection.execute(sql, statement.parameters).fetchall()


@lru_cache(maxsize=1024)
def numbered(sql: str) -> str:
    """The statement with `?1` for `$1`."""
    return _PARAMETER.sub(r"?\1", sql)


def _run_one_of_several(connection: sqlite3.Connection, job: Job[Any]) -> None:
    connection.execute("savepoint job")
    with translated(job):
        job.result = _run(connection, job.transaction())
    if isinstance(job.error, StorageError) and not connection.in_transaction:
        # A full disk ends the whole transaction, and with it what the others have done.
        raise job.error
    if job.error is not None:
        connection.execute("rollback to job")
    connection.execute("release job")


def _end(connection: sqlite3.Connection, how: str) -> None:
    """End a transaction that is still open."""
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute(how)
