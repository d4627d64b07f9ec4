"""A catalog in SQLite, as the source of a copy and as its target. For commands: the event loop waits for the disk."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, nullcontext, suppress
from pathlib import Path

from harmonia_py.database.copying.tables import BATCH, Table
from harmonia_py.database.sqlite import LOCK_SUFFIX, SqliteDatabase, numbered
from harmonia_py.database.sqlite_worker import storage_error
from harmonia_py.database.transaction import Row
from harmonia_py.database.turns import Turns
from harmonia_py.errors import StorageError
from harmonia_py.runtime.durable import sync_directory


class SqliteSide:
    """A catalog in a file that a transaction has open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def rows(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """All rows of a table, in order."""
        cursor = self._connection.execute(table.select)
        while batch := cursor.fetchmany(BATCH):
            yield batch

    async def empty(self, table: Table) -> None:
        """Remove all rows of a table."""
        self._connection.execute(f"delete from {table.name}")

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows to a table."""
        self._connection.executemany(numbered(table.insert), rows)


@asynccontextmanager
async def reading(file: Path, *, hold: bool) -> AsyncIterator[SqliteSide]:
    """The catalog in `file` as it stands; with `hold` what wants to write there waits.

    Raises:
        StorageError: it cannot be read.
    """
    if not file.exists():  # noqa: ASYNC240  # as said
        raise StorageError(f"{file}: there is no catalog")
    await (await SqliteDatabase.open(file)).aclose()  # of the newest schema
    turns = Turns(file.with_suffix(".lock"))
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            async with _turn(turns) if hold else nullcontext():
                connection.execute("begin")
                yield SqliteSide(connection)
    except sqlite3.Error as error:
        raise storage_error(error) from error
    finally:
        turns.close()


@asynccontextmanager
async def _turn(turns: Turns) -> AsyncIterator[None]:
    taken = turns.take()
    await asyncio.to_thread(taken.__enter__)
    try:
        yield
    finally:
        taken.__exit__(None, None, None)


@asynccontextmanager
async def writing(file: Path) -> AsyncIterator[SqliteSide]:
    """A new catalog, which is in `file` when the context ends without an exception, and otherwise nowhere.

    Raises:
        StorageError: there is a catalog already, or it cannot be written.
    """
    if file.exists():  # noqa: ASYNC240  # as said
        raise StorageError(f"{file}: there is a catalog already; move it away first")
    fresh = file.with_name(f".{file.stem}-{os.getpid()}.sqlite")
    try:
        await (await SqliteDatabase.open(fresh)).aclose()
        with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            connection.execute("pragma synchronous = full")
            connection.execute("begin immediate")
            yield SqliteSide(connection)
            connection.execute("commit")
            connection.execute("pragma wal_checkpoint(truncate)")
        os.link(fresh, file)
        sync_directory(file.parent)
    except sqlite3.Error as error:
        raise storage_error(error) from error
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror}") from error
    finally:
        for name in (fresh, fresh.with_suffix(".lock"), fresh.with_suffix(LOCK_SUFFIX)):
            with suppress(FileNotFoundError):
                name.unlink()
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                fresh.with_name(fresh.name + suffix).unlink()
