"""The database of an Attic server, opened to be read: an SQLite file, or PostgreSQL."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from harmonia_py.errors import ConfigError, StorageError, reason_of

_POSTGRES: Final = ("postgres", "postgresql")
_CONNECT_SECONDS: Final = 30.0
_ODD: Final = "not the database of a server of Attic of 2023 or later"


class Database(Protocol):
    """Reads rows."""

    async def rows(self, sql: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        """The rows of a statement, whose parameters are `$1`, `$2` and so on.

        Raises:
            StorageError: it cannot be read.
        """


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """The database under a URL as `server.toml` of Attic has it.

    Raises:
        ConfigError: there is no such database, or nothing here that reads it.
        StorageError: it cannot be opened.
    """
    parts = urlsplit(url)
    if parts.scheme in _POSTGRES:
        async with _open_postgres(url) as database:
            yield database
        return
    if parts.scheme != "sqlite":
        raise ConfigError("the URL of Attic's database begins with sqlite:// or postgresql://")
    file = Path(unquote(parts.netloc + parts.path))
    if not await asyncio.to_thread(file.is_file):
        raise ConfigError(f"{file}: there is no database of Attic")
    yield _Sqlite(file)


class _Sqlite:
    """An SQLite file. A server may go on writing to it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def rows(self, sql: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        return await asyncio.to_thread(self._read, sql.replace("$", "?"), parameters)

    def _read(self, sql: str, parameters: tuple[Any, ...]) -> Sequence[tuple[Any, ...]]:
        try:
            with closing(sqlite3.connect(f"file:{quote(str(self._file))}?mode=ro", uri=True)) as connection:
                return connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            # These two tell of the statement and of the file; the others of a disk, a lock, a permission.
            # So do those of the module itself, which have no code: a text that is none.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            is_odd = code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB)
            raise StorageError(f"{self._file}: {f'{_ODD}: ' if is_odd else ''}{error}") from None


@asynccontextmanager
async def _open_postgres(url: str) -> AsyncIterator[Database]:
    try:
        import asyncpg  # noqa: PLC0415  # of an extra
    except ImportError:
        raise ConfigError(
            "Attic's database is PostgreSQL, and asyncpg is not installed: install harmonia-py[postgresql]"
        ) from None

    # A connection does one thing at a time, and NARs are taken over side by side.
    turn = asyncio.Lock()

    class Postgres:
        async def rows(self, sql: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
            try:
                async with turn:
                    return [tuple(row) for row in await connection.fetch(sql, *parameters)]
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
                raise StorageError(f"Attic's database: {_ODD}: {error}") from None
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise StorageError(f"Attic's database: {reason_of(error)}") from None

    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # Never the URL: a password may stand in it.
        raise StorageError(f"Attic's database cannot be opened: {type(error).__name__}") from None
    try:
        yield Postgres()
    finally:
        await connection.close()
