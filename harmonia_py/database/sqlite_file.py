"""The file of a catalog in SQLite, read beside the servers that have it open."""

import sqlite3
from contextlib import closing
from pathlib import Path

from harmonia_py import json_text
from harmonia_py.catalog.caches import DEFAULT_CACHE
from harmonia_py.database.sqlite import BUSY_SECONDS, connect
from harmonia_py.database.sqlite_worker import storage_error
from harmonia_py.errors import FormatError, StorageError


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it stands, beside those that read and write it. Takes some seconds for each GB.

    Raises:
        StorageError: it cannot be read, or the copy written.
    """
    try:
        with closing(connect(source)) as from_, closing(sqlite3.connect(target)) as to:
            from_.backup(to)
    except sqlite3.Error as error:
        raise storage_error(error) from error


def settings_of_caches(file: Path) -> list[dict[str, object]]:
    """The settings of the caches that have a name of their own, read beside those that write.

    Raises:
        StorageError: they cannot be read.
    """
    named = "select settings from caches where id > ? and deleted_s is null"
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", timeout=BUSY_SECONDS, uri=True)
        ) as connection:
            rows = connection.execute(named, (DEFAULT_CACHE,)).fetchall()
    except sqlite3.Error as error:
        raise storage_error(error) from error
    try:
        return [json_text.decode(text, dict[str, object]) for (text,) in rows]
    except FormatError as error:
        raise StorageError(f"the settings of a cache do not parse: {error}") from error
