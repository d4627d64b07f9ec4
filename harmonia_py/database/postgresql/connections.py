"""Connections to PostgreSQL: made, bounded in number, and their errors translated."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import asyncpg

from harmonia_py.database.jobs import WAIT_SECONDS
from harmonia_py.database.transaction import Value
from harmonia_py.errors import CatalogError, StorageError, StorageFull, reason_of

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 0.5
_STATEMENTS: Final = 256

# A restart of the server takes a second or two, a failover some ten. A process that stands still in a transaction must
# not hold up the others for longer, and one whose machine has vanished is noticed by the kernel of the server.
_SETTINGS: Final = {
    "application_name": "harmonia-py",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "10s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
    # Every statement begins with a few rows and follows indexes from there. Statistics may say otherwise for a minute,
    # when much was just pushed or condemned, and a plan that reads all of it would be kept for that minute.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "random_page_cost": "1.1",
}

_DAMAGED: Final = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError, asyncpg.InvalidCatalogNameError)
# The server goes, comes, is full, or another transaction was in the way: the same may do in a moment.
_PASSING: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
)
FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises when a statement cannot be done; `TimeoutError` is an `OSError`."""


class Connection(Protocol):
    """The methods of asyncpg's connection, which has no types, that are used here; each does what its namesake does."""

    async def fetch(self, query: str, *parameters: Value | list[Value]) -> Sequence[Sequence[Any]]:
        """The rows of a statement."""

    async def fetchval(self, query: str, *parameters: Value) -> Any:
        """The first value of the first row."""

    async def execute(self, query: str, *parameters: Value) -> str:
        """Run statements; several when there are no parameters."""

    async def executemany(self, command: str, parameters: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each tuple."""

    async def copy_records_to_table(
        self, table_name: str, *, records: Sequence[Sequence[Value]], columns: Sequence[str]
    ) -> str:
        """Add rows to a table."""

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        """Have `callback` called with each notification."""

    def add_termination_listener(self, callback: Callable[..., None]) -> None:
        """Have `callback` called when the connection ends."""

    def remove_termination_listener(self, callback: Callable[..., None]) -> None:
        """Take that back."""

    def is_in_transaction(self) -> bool:
        """Whether a transaction is open, as it should be or failed."""

    def is_closed(self) -> bool:
        """Whether nothing can be asked any more."""

    def terminate(self) -> None:
        """Close it at once."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of the database.

    Attributes:
        url: `postgresql://user@host/database?…` as libpq reads it, without the password.
        password: None for that of `PGPASSWORD` or of the file that `PGPASSFILE` names, if there is one.
        connections: that read at once.
    """

    url: str
    password: str | None = field(default=None, repr=False)
    connections: int = 4

    async def connect(self) -> Connection:
        """A connection.

        Raises:
            OSError: there is no server.
            asyncpg.PostgresError: it does not let us in.
        """
        connection: Connection = await asyncpg.connect(
            self.url,
            password=self.password,
            timeout=_CONNECT_SECONDS,
            statement_cache_size=_STATEMENTS,
            max_cached_statement_lifetime=0,
            server_settings=_SETTINGS,
        )
        return connection


def storage_error(error: Exception) -> StorageError:
    """An error of asyncpg as one of ours."""
    if isinstance(error, asyncpg.DiskFullError):
        return StorageFull(f"the catalog: {error}")
    if isinstance(error, _DAMAGED):
        return CatalogError(f"the catalog: {error}")
    if isinstance(error, ssl.SSLError):
        return StorageError(f"the catalog: TLS: {error.reason}")
    return StorageError(f"the catalog: {reason_of(error)}")


def is_passing(error: BaseException) -> bool:
    """Whether the transaction may be done when it is begun anew."""
    if isinstance(error, asyncpg.QueryCanceledError):  # it took too long, and would again
        return False
    return isinstance(error, _PASSING) or (isinstance(error, asyncpg.InterfaceError) and "closed" in str(error))


class Connections:
    """At most `most` connections, opened when they are needed. One that failed in the middle is not used again.

    Args:
        address: of the database.
        most: at once; what needs one more waits.
    """

    def __init__(self, address: Address, most: int) -> None:
        self._address = address
        self._free = asyncio.Semaphore(most)
        self._idle: list[Connection] = []
        self._closed = False
        # Since when no connection could be made, by the clock of the loop.
        self._away_since: float | None = None

    async def do(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """The result of `work` with a connection; it begins anew when the server has gone in the middle.

        Raises:
            StorageError: it cannot be done, or not in time.
        """
        end = asyncio.get_running_loop().time() + WAIT_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        while True:
            deadline = asyncio.timeout_at(end)
            try:
                async with deadline, self.lent() as connection:
                    return await work(connection)
            except FAILURES as error:
                if deadline.expired():
                    raise StorageError("the catalog did not answer in time") from None
                if not is_passing(error) or not self._may_wait(pause, end):
                    raise storage_error(error) from error
                _log.debug("a transaction is begun anew: %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Connection]:
        """A connection in no transaction. Raises what asyncpg raises."""
        async with self._free:
            connection = self._take() or await self._connect()
            try:
                yield connection
            except BaseException as error:
                self._give_back(connection, is_in_step=isinstance(error, Exception))
                raise
            self._give_back(connection)

    async def aclose(self) -> None:
        """Close those that are idle; each of the others closes when it is given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().terminate()

    def _take(self) -> Connection | None:
        if self._closed:
            raise StorageError("the catalog is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _give_back(self, connection: Connection, *, is_in_step: bool = True) -> None:
        # A connection whose work was cancelled in the middle of an answer, or left a transaction open, is closed.
        if self._closed or not is_in_step or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        try:
            connection = await self._address.connect()
        except BaseException:
            if self._away_since is None:
                self._away_since = asyncio.get_running_loop().time()
            raise
        self._away_since = None
        return connection

    def _may_wait(self, pause: float, end: float) -> bool:
        """Whether it is worth to try again: the server may be restarting, but has not been away for long."""
        now = asyncio.get_running_loop().time()
        is_away = self._away_since is not None and now - self._away_since > WAIT_SECONDS
        return now + pause < end and not is_away
