"""The database of a server of Attic: what cannot be read of it is said in words."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from harmonia_py.attic.database import open_database
from harmonia_py.errors import StorageError


async def test_a_text_that_is_none_is_no_traceback(tmp_path: Path) -> None:
    """An error of Python's module has no code of SQLite's, and ended the import."""
    file = tmp_path / "server.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("create table cache (name text)")
        connection.execute("insert into cache values (cast(x'ff' as text))")
        connection.commit()
    async with open_database(f"sqlite://{file}") as database:
        with pytest.raises(StorageError, match="Could not decode"):
            await database.rows("select name from cache")
