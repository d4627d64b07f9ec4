"""A `Database` over PostgreSQL, in the event loop: some connections that read, one that scans, one that writes.

Transactions that write take turns over all processes, under an advisory lock, and what waits while one is made durable
goes into the next one together, as with SQLite. So each is alone, as it was written to be: none fails because of
another, and none has to be begun anew (docs/decisions/0012-postgresql.md). Readers wait for no writer.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Self, TypeVar

from harmonia_py.database import migrations
from harmonia_py.database.jobs import WAIT_SECONDS
from harmonia_py.database.postgresql.advisory_lock import AdvisoryLock
from harmonia_py.database.postgresql.changes import Changes
from harmonia_py.database.postgresql.connections import FAILURES, Address, Connection, Connections, storage_error
from harmonia_py.database.postgresql.running import TURN, MoreToAsk, run
from harmonia_py.database.postgresql.sql import definition
from harmonia_py.database.postgresql.writer import Writer
from harmonia_py.database.transaction import Topic, Transaction
from harmonia_py.runtime.tasks import end_task

T = TypeVar("T")

_COLLECTING: Final = 1
_HOUSEKEEPING: Final = 2
# Seconds after which a deletion on a disk or in S3 has ended. Another process begins to delete only then: a late
# deletion could hit bytes that were kept anew.
_DELETION_SECONDS: Final = 10.0
_BEGIN_READING: Final = "begin isolation level repeatable read read only"


class PostgresDatabase:
    """One process's view of the database. Made by `open`, inside the event loop that uses it, after any fork.

    Attributes:
        generation, watch, collecting, housekeeping: as in `Database`.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self.collecting = AdvisoryLock(address, "collecting", _COLLECTING, _DELETION_SECONDS).hold
        self.housekeeping = AdvisoryLock(address, "housekeeping", _HOUSEKEEPING, 0.0).hold
        self._changes = Changes(address)
        self.generation, self.watch = self._changes.generation, self._changes.watch
        self._readers = Connections(address, address.connections)
        self._scanner = Connections(address, 1)
        self._writer = Writer(Connections(address, 1), self._changes)
        self._resources = AsyncExitStack()
        # Transactions that asked more than one thing when they last ran, by their code.
        self._long: set[object] = set()

    @classmethod
    async def open(cls, address: Address) -> Self:
        """Bring the database up to date, and listen to what others change.

        Raises:
            CatalogError: it was used by a newer release.
            StorageError: it cannot be used.
        """
        self = cls(address)
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def read(self, transaction: Callable[[], Transaction[T]]) -> T:
        """As in `Database`."""
        return await self._read(self._readers, transaction)

    async def scan(self, transaction: Callable[[], Transaction[T]]) -> T:
        """As in `Database`."""
        return await self._read(self._scanner, transaction)

    async def write(self, transaction: Callable[[], Transaction[T]], *changes: Topic, durable: bool = True) -> T:
        """As in `Database`. When it raises because it took too long, it may still be done later."""
        return await self._writer.do(transaction, changes, durable=durable)

    async def aclose(self) -> None:
        """As in `Database`."""
        await self._writer.aclose()
        await self._resources.aclose()
        await self._readers.aclose()
        await self._scanner.aclose()

    async def _open(self) -> None:
        if not await self._scanner.do(_is_of_this_schema):
            await _migrate(self._address)
        listening = asyncio.create_task(self._changes.run())
        self._resources.push_async_callback(end_task, listening)
        await self._changes.listening(WAIT_SECONDS)

    async def _read(self, connections: Connections, transaction: Callable[[], Transaction[T]]) -> T:
        """Run it as one statement if it is one, and otherwise on one snapshot."""
        code = transaction.func if isinstance(transaction, partial) else getattr(transaction, "__code__", None)

        async def work(connection: Connection) -> T:
            if code not in self._long:
                try:
                    return await run(connection, transaction(), most=1)
                except MoreToAsk:
                    self._long.add(code)
            await connection.execute(_BEGIN_READING)
            result = await run(connection, transaction())
            await connection.execute("commit")
            return result

        return await connections.do(work)


async def _is_of_this_schema(connection: Connection) -> bool:
    if await connection.fetchval("select to_regclass('migrations')") is None:
        return False
    current: int | None = await connection.fetchval("select max(version) from migrations")
    return current == migrations.versions()[-1]


async def _migrate(address: Address) -> None:
    """Take all steps. A table may be large and others may be at it: neither is given up for the time that it takes."""
    try:
        connection = await address.connect()
        try:
            await connection.execute("set statement_timeout = 0; set lock_timeout = 0")
            while await _step(connection):
                pass
        finally:
            connection.terminate()
    except FAILURES as error:
        raise storage_error(error) from error


async def _step(connection: Connection) -> bool:
    """Take one step, alone; whether there was one to take."""
    await connection.execute(f"begin; select {TURN}")
    done = await run(connection, migrations.next_step(int(time.time()), may_be_ahead=1, definition=definition))
    await connection.execute("commit")
    return done
