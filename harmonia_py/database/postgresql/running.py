"""Transactions, which are generators of statements, run on a connection to PostgreSQL."""

from typing import Final, TypeVar

from harmonia_py.database.postgresql.connections import Connection
from harmonia_py.database.postgresql.sql import cast, together
from harmonia_py.database.transaction import Row, Statement, Together, Transaction

T = TypeVar("T")

# "harmonia-py writes", as a number that no other program will have taken.
TURN: Final = f"pg_advisory_xact_lock({0x6861726D_77726974})"
"""Waits for the turn to write, and holds it until the transaction ends."""


class MoreToAsk(Exception):  # nothing is wrong
    """A transaction asked for more than one statement."""


async def run(connection: Connection, transaction: Transaction[T], *, most: int | None = None) -> T:
    """The result of a transaction. Raises what it raises, and what asyncpg raises.

    Raises:
        MoreToAsk: it asks for more than `most` statements.
    """
    rows: list[Row] | None = None
    asked = 0
    try:
        while True:
            statement = next(transaction) if rows is None else transaction.send(rows)
            asked += 1
            if most is not None and asked > most:
                raise MoreToAsk
            rows = await _rows(connection, statement)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        transaction.close()


async def _rows(connection: Connection, statement: Statement | Together) -> list[Row]:
    if isinstance(statement, Together):
        sql, parameters = together(statement.statements)
        await connection.fetch(sql, *parameters)
        return []
    if statement.many is not None:
        if statement.many:
            await connection.executemany(cast(statement.sql, statement.many[0]), statement.many)
        return []
    records = await connection.fetch(cast(statement.sql, statement.parameters), *statement.parameters)
    return [tuple(record) for record in records]
