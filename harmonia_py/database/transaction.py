"""A transaction as a generator: it yields statements and is sent their rows.

What a transaction does is written once. A thread of SQLite resumes it, or an event loop between two answers of
PostgreSQL: nothing here waits, and a transaction that lost a race is begun anew by calling the function once more.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

Value = str | int | bytes | None
Row = tuple[Any, ...]
T = TypeVar("T")

# One list in a statement. SQLite takes 999 parameters in old releases and a statement has others beside the list.
_LIST: Final = 256


class Statement(Struct, frozen=True):
    """SQL with `$1`, `$2` … for its parameters; with `many`, it runs once for each of these tuples."""

    sql: str
    parameters: tuple[Value, ...] = ()
    many: Sequence[tuple[Value, ...]] | None = None


class Together(Struct, frozen=True):
    """Statements that change rows, sent together: they cost one way to the database and back.

    No row that one of them changes is read or changed by another one: the database may take them in any order. One with
    `many` has a single `values ($1, $2 …)`, and puts no row twice. What they return is not told.
    """

    statements: tuple[Statement, ...]


Transaction = Generator[Statement | Together, list[Row], T]


class Topic(Enum):
    """The kinds of changes on which answers depend that are held elsewhere."""

    OBJECTS = 0
    ACCESS = 1
    REMOVALS = 2
    """Part of `OBJECTS`: an object that readers were shown is gone, is another, or is signed by other keys."""


class Database(Protocol):
    """Runs transactions. Every method raises `StorageError` when the database cannot answer in time."""

    async def read(self, transaction: Callable[[], Transaction[T]]) -> T:
        """Run a transaction that only reads, beside those that write."""

    async def scan(self, transaction: Callable[[], Transaction[T]]) -> T:
        """As `read`, for transactions that read many rows: those of `read` do not wait for them."""

    async def write(self, transaction: Callable[[], Transaction[T]], *changes: Topic, durable: bool = True) -> T:
        """Run a transaction alone and make it durable; or, when it raises, undo it.

        Args:
            transaction: called once, or again when it has to be begun anew.
            changes: the kinds of answers that others have to ask for again when it is done.
            durable: False for what a client brings again after a power cut, so that the disk need not be waited for.
                Whatever is durable later makes it so as well.
        """

    def generation(self, topic: Topic) -> int | None:
        """A number that is another one after every change; None while one is under way. Costs a microsecond."""

    def watch(self, topic: Topic) -> "memoryview[int]":
        """Memory whose only element is another number after every change, and odd while one is under way.

        A look at it costs thirty nanoseconds.
        """

    def collecting(self, wait_seconds: float = 0.0) -> AbstractAsyncContextManager[bool]:
        """Be the one process of all that share the database that collects; False when another is, for longer."""

    def housekeeping(self) -> AbstractAsyncContextManager[bool]:
        """Make this process the one, of all that share the database, that keeps house; False when another is.

        What is done inside is cancelled, and `StorageError` raised, when that ends.
        """

    async def aclose(self) -> None:
        """Finish the transactions that have begun, and close the database."""


def ask(sql: str, *parameters: Value) -> Transaction[list[Row]]:
    """The rows that a statement gives."""
    return (yield Statement(sql, parameters))


def ask_one(sql: str, *parameters: Value) -> Transaction[Row | None]:
    """The first row that a statement gives; None when it gives none."""
    rows = yield Statement(sql, parameters)
    return rows[0] if rows else None


def ask_as(parse: Callable[[Row], T], sql: str, *parameters: Value) -> Transaction[T | None]:
    """The first row that a statement gives, parsed; None when it gives none."""
    row = yield from ask_one(sql, *parameters)
    return None if row is None else parse(row)


def ask_row(sql: str, *parameters: Value) -> Transaction[Row]:
    """The row of a statement that always gives one."""
    rows = yield Statement(sql, parameters)
    return rows[0]


def ask_number(sql: str, *parameters: Value) -> Transaction[int]:
    """The number in the first column of a statement that always gives one row."""
    return int((yield from ask_row(sql, *parameters))[0])


def ask_many(sql: str, parameters: Sequence[tuple[Value, ...]]) -> Transaction[None]:
    """Run a statement that gives no rows once for each tuple."""
    if parameters:
        yield Statement(sql, (), parameters)


def do_together(statements: Sequence[Statement]) -> Transaction[None]:
    """Run statements that have nothing to do with each other, as `Together` says."""
    wanted = tuple(statement for statement in statements if statement.many is None or statement.many)
    if wanted:
        yield Together(wanted)


def ask_for_each(sql: str, values: Sequence[Value], *others: Value) -> Transaction[list[Row]]:
    """The rows of a statement that has `in ($list)`, for any number of values.

    `others` are its parameters `$1`, `$2` and so on. Lists have one of a few lengths, filled up with their last value,
    so that few statements are prepared.
    """
    rows: list[Row] = []
    for part in _parts(values):
        length = next(length for length in _LENGTHS if length >= len(part))
        filled = (*part, *(part[-1],) * (length - len(part)))
        numbers = range(len(others) + 1, len(others) + 1 + length)
        rows += yield Statement(sql.replace("$list", ", ".join(f"${number}" for number in numbers)), (*others, *filled))
    return rows


_LENGTHS: Final = (1, 4, 16, 64, _LIST)


def _parts(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    for start in range(0, len(values), _LIST):
        yield values[start : start + _LIST]
