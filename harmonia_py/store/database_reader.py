"""The connection to a store's `db.sqlite`: reads of one moment each, beside the processes that write."""

import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from harmonia_py.errors import DaemonProtocolError, DaemonUnreachable, FormatError, describe_os_error
from harmonia_py.store.rows import Row

Value = TypeVar("Value")

# Unchanged since Nix 1.12; any other number means tables that we do not know.
_SCHEMA: Final = "10"
# Instructions of SQLite's machine between two looks at the clock: some hundred microseconds.
_INSTRUCTIONS: Final = 10_000
# A writer holds its lock for milliseconds; only a change of the journal's mode takes longer.
_BUSY_TIMEOUT: Final = 5.0
# A database that is read without its log may change under the reader.
_ATTEMPTS: Final = 3
_TABLES: Final = "select name from sqlite_master where type = 'table'"


class DatabaseReader:
    """The connection to the database. It is used by one thread, after it was made by any."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._immutable = False
        self._state: tuple[int, ...] = ()
        self._deadline = math.inf

    def read(self, read: Callable[[], Value], time_limit: float) -> Value:
        """The result of `read` over the database as it is at one moment."""
        self._deadline = time.monotonic() + time_limit
        try:
            for _ in range(_ATTEMPTS):
                self._open()
                value = self._transact(read)
                if not self._immutable or self._look() == self._state:
                    return value
        except FormatError as error:
            raise DaemonProtocolError(f"{self._database}: a row does not parse: {error}") from error
        except sqlite3.OperationalError as error:
            self.close()
            kind = DaemonProtocolError if str(error).startswith("no such") else DaemonUnreachable
            raise kind(f"{self._database}: {error}") from error
        except sqlite3.Error as error:
            self.close()
            raise DaemonProtocolError(f"{self._database}: {error}") from error
        except OSError as error:
            self.close()
            raise DaemonUnreachable(describe_os_error(error)) from error
        raise DaemonUnreachable(f"{self._database} is being written, and cannot be opened together with its writer")

    def query(self, statement: str, parameters: tuple[object, ...] = ()) -> list[Row]:
        """All rows; only inside `read`."""
        assert self._connection is not None
        return self._connection.execute(statement, parameters).fetchall()

    def tables(self) -> set[str]:
        """The names of all tables."""
        return {name for (name,) in self.query(_TABLES)}

    def close(self) -> None:
        """Close the database; the next `read` opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transact(self, read: Callable[[], Value]) -> Value:
        assert self._connection is not None
        self._connection.execute("begin")
        try:
            return read()
        finally:
            self._connection.rollback()

    def _open(self) -> None:
        state = self._look()
        if self._connection is not None and state == self._state:
            return
        self.close()
        schema = self._database.with_name("schema").read_text().strip()
        if schema != _SCHEMA:
            raise FormatError(f"the schema is {schema[:20]!r}; only {_SCHEMA} is known")
        try:
            self._connection, self._immutable = self._connect("mode=ro"), False
        except sqlite3.OperationalError:
            # Up to Nix 2.21 the files -wal and -shm are there only while a process has the database open, and a reader
            # that may not make them is refused. Without a log the database alone is complete, until a process writes.
            if self._log_size() > 0:
                raise
            self._connection, self._immutable = self._connect("mode=ro&immutable=1"), True
        self._state = self._look()

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"file:{quote(str(self._database.absolute()))}?{mode}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = lambda data: data.decode(errors="surrogateescape")
        connection.set_progress_handler(lambda: time.monotonic() > self._deadline, _INSTRUCTIONS)
        try:
            # An error in the database shows at the first statement, not when it is opened.
            connection.execute("select 1 from ValidPaths limit 1").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _look(self) -> tuple[int, ...]:
        status = self._database.stat()
        identity = (status.st_dev, status.st_ino)
        # An immutable database is not looked at again by SQLite, so we do.
        return (*identity, status.st_size, status.st_mtime_ns, self._log_size()) if self._immutable else identity

    def _log_size(self) -> int:
        try:
            return self._database.with_name(f"{self._database.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0
