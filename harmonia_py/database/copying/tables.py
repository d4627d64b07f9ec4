"""The tables of a copy, and sums of their rows by which two copies are compared."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from harmonia_py.database import migrations
from harmonia_py.database.transaction import Row

BATCH: Final = 1000
"""Rows at a time."""

# Tables of the database itself, not of the catalog.
_ITS_OWN: Final = {"migrations", "writers"}
# The lock of the process that collects is no part of the catalog.
_PASSING: Final = {"progress": "name not in ('collecting', 'housekeeping')"}


class Table(Struct, frozen=True):
    """A table.

    Attributes:
        name: of the table.
        columns: in the order in which rows have them.
        key: the columns by which rows are in order, the same in each database.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def select(self) -> str:
        """The statement that gives all rows in order."""
        where = f" where {_PASSING[self.name]}" if self.name in _PASSING else ""
        return f"select {', '.join(self.columns)} from {self.name}{where} order by {', '.join(self.key)}"

    @property
    def insert(self) -> str:
        """The statement that adds a row."""
        values = ", ".join(f"${number}" for number in range(1, len(self.columns) + 1))
        return f"insert into {self.name} ({', '.join(self.columns)}) values ({values})"


def tables() -> list[Table]:
    """All tables of the newest schema, each after those that it refers to: as an empty database has them."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for version in migrations.versions():
            for statement in migrations.statements(version):
                connection.execute(statement)
        names = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        return [_table(connection, name) for name in names if name not in _ITS_OWN]


def _table(connection: sqlite3.Connection, name: str) -> Table:
    columns = connection.execute("select name, pk from pragma_table_info(?)", (name,)).fetchall()
    key = sorted((place, column) for column, place in columns if place)
    return Table(name, tuple(column for column, _ in columns), tuple(column for _, column in key))


class Sum:
    """The number of rows that went by, and a digest of them in their order."""

    def __init__(self) -> None:
        self.rows = 0
        self._digest = sha256()

    def add(self, rows: Sequence[Row]) -> None:
        """Count these as well."""
        self.rows += len(rows)
        for row in rows:
            self._digest.update(msgspec.msgpack.encode(row))

    @property
    def value(self) -> tuple[int, str]:
        """Both, of all so far."""
        return self.rows, self._digest.hexdigest()


async def sum_of(rows: AsyncIterator[Sequence[Row]]) -> Sum:
    """The sum of all rows."""
    total = Sum()
    async for batch in rows:
        total.add(batch)
    return total
