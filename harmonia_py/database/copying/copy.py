"""The copy itself: every row of every table; then the rows of the copy are read and compared with the source."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from harmonia_py.database.copying.tables import Sum, Table, sum_of, tables
from harmonia_py.database.transaction import Row
from harmonia_py.errors import StorageError


class Source(Protocol):
    """A catalog that is read."""

    def rows(self, table: Table) -> AsyncIterator[Sequence[Row]]:
        """All rows of a table, in order."""


class Target(Source, Protocol):
    """A catalog that is written."""

    async def empty(self, table: Table) -> None:
        """Remove all rows of a table."""

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows to a table."""


async def copy(source: Source, target: Target, report: Callable[[int], object] = lambda _: None) -> Mapping[str, int]:
    """Make `target` what `source` is; how many rows each table has.

    Args:
        source: is left as it is.
        target: has nothing but what every new catalog has.
        report: is told of each row that was copied.

    Raises:
        StorageError: one cannot be read, or the other written; or the copy is another than the original.
    """
    every = tables()
    for table in reversed(every):
        await target.empty(table)
    sums = {table.name: await _copy_table(source, target, table, report) for table in every}
    for table in every:
        found = await sum_of(target.rows(table))
        if found.value != sums[table.name].value:
            raise StorageError(
                f"{table.name}: {found.rows} rows were written, and are not the {sums[table.name].rows} read"
            )
    return {name: total.rows for name, total in sums.items()}


async def _copy_table(source: Source, target: Target, table: Table, report: Callable[[int], object]) -> Sum:
    total = Sum()
    async for rows in source.rows(table):
        total.add(rows)
        await target.add(table, rows)
        report(len(rows))
    return total
