"""A catalog in PostgreSQL, as the source of a copy and as its target."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from harmonia_py.database.copying.tables import BATCH, Table
from harmonia_py.database.postgresql.connections import FAILURES, Address, Connection, storage_error
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.postgresql.running import TURN
from harmonia_py.database.transaction import Row
from harmonia_py.errors import StorageError


class PostgresSide:
    """A catalog that a transaction has open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """All rows of a table, in order."""
        await self._connection.execute(f"declare rows_of_{table.name} cursor for {table.select}")
        while batch := await self._connection.fetch(f"fetch {BATCH} from rows_of_{table.name}"):
            yield [tuple(row) for row in batch]
        await self._connection.execute(f"close rows_of_{table.name}")

    async def empty(self, table: Table) -> None:
        """Remove all rows of a table."""
        await self._connection.execute(f"delete from {table.name}")

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows to a table."""
        await self._connection.copy_records_to_table(table.name, records=rows, columns=table.columns)


@asynccontextmanager
async def reading(address: Address, *, hold: bool) -> AsyncIterator[PostgresSide]:
    """The catalog as it stands; with `hold` what wants to write there waits.

    Raises:
        StorageError: it cannot be read.
    """
    # With the turn nothing else writes; without it one snapshot stands still.
    begin = f"begin; select {TURN}" if hold else "begin isolation level repeatable read read only"
    async with _opened(address, begin) as connection:
        yield PostgresSide(connection)


@asynccontextmanager
async def writing(address: Address) -> AsyncIterator[PostgresSide]:
    """A new catalog, which is there when the context ends without an exception; otherwise nothing has changed.

    Raises:
        StorageError: there is a catalog already, or it cannot be written.
    """
    async with _opened(address, f"begin; select {TURN}") as connection:
        if await connection.fetchval(
            "select exists (select 1 from objects) or exists (select 1 from caches where id > 3)"
        ):
            raise StorageError("the database has a catalog already; name an empty one")
        yield PostgresSide(connection)
        await connection.execute("commit")
        await connection.execute("analyze")


@asynccontextmanager
async def _opened(address: Address, begin: str) -> AsyncIterator[Connection]:
    await (await PostgresDatabase.open(address)).aclose()  # of the newest schema
    try:
        connection = await address.connect()
        try:
            await connection.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
            await connection.execute(begin)
            yield connection
        finally:
            connection.terminate()
    except FAILURES as error:
        raise storage_error(error) from error
