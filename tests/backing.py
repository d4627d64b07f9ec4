"""Where the servers of a test run keep what is pushed, chosen for the whole run: one suite runs on all of them.

    HARMONIA_PY_BACKING="postgresql s3 3" pytest tests/e2e/test_push_client.py     # or make test-matrix

The words are `postgresql` in the place of SQLite, `s3` in that of a directory, and a number of workers. Each `root`,
the folder of a test's server, has a database and a prefix in a bucket of its own, and what is run beside the server
there uses them as well.
"""

import asyncio
import atexit
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

import asyncpg
from bucket_files import BucketPath
from postgresql import shared
from s3_double import S3Double, credentials_file

from harmonia_py.database.postgresql.connections import FAILURES
from harmonia_py.storage.s3.settings import S3Settings

_WORDS: Final = frozenset(os.environ.get("HARMONIA_PY_BACKING", "").split())
_NUMBERS: Final = count(1)
_DATABASES: Final[dict[Path, str]] = {}
_PREFIXES: Final[dict[Path, str]] = {}
# Of a database that is being restarted.
_PATIENCE_SECONDS: Final = 30.0

IN_POSTGRESQL: Final = "postgresql" in _WORDS
IN_BUCKET: Final = "s3" in _WORDS
_COUNTS: Final = sorted(_WORDS - {"postgresql", "s3"})
if len(_COUNTS) > 1 or not all(word.isdecimal() for word in _COUNTS):
    raise ValueError(f"HARMONIA_PY_BACKING: {' '.join(_COUNTS)} is no number of workers")
WORKERS: Final = int(_COUNTS[0]) if _COUNTS else None


def chosen(root: Path) -> dict[str, Any]:
    """The tables of the configuration that say where things are kept."""
    tables: dict[str, Any] = {}
    if IN_POSTGRESQL:
        tables["database"] = {"url": database(root)}
    if IN_BUCKET:
        tables["storage"] = {"url": double().url(_prefix(root)), "credentials_file": str(credentials_file(root))}
    if WORKERS is not None:
        tables["workers"] = WORKERS
    return tables


def database(root: Path) -> str:
    """The URL of the database of what is run in `root`."""
    if root not in _DATABASES:
        _DATABASES[root] = shared().database()
    return _DATABASES[root]


def ask(root: Path, sqlite: Path, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of the catalog of what is run in `root`, which is in the file `sqlite` where it is not in PostgreSQL.

    `$1` and so on in the statement stand for the parameters.
    """
    if not IN_POSTGRESQL:
        with closing(sqlite3.connect(f"file:{sqlite}?mode=ro", uri=True, timeout=10.0)) as catalog:
            return catalog.execute(statement.replace("$", "?"), parameters).fetchall()
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return asyncio.run(_fetch(database(root), statement, *parameters))
        except FAILURES:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


async def _fetch(url: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *parameters)]
    finally:
        connection.terminate()


def lose_catalog(root: Path) -> None:
    """What is run in `root` from now on finds no catalog, and its bucket belongs to none."""
    _DATABASES.pop(root, None)
    if IN_BUCKET:
        double().objects.pop(f"{_prefix(root)}/.catalog", None)
    for file in root.glob("catalog.*"):
        file.unlink()


def back_up_catalog(root: Path) -> Callable[[], None]:
    """Copy the catalog of `root`, which nothing has open; what is returned puts the copy in its place."""
    if IN_POSTGRESQL:
        url = shared().copy(database(root))

        def put_back() -> None:
            _DATABASES[root] = url

        return put_back
    catalog = root / "catalog.sqlite"
    copy = shutil.copyfile(catalog, root / "backup.sqlite")

    def restore() -> None:
        lose_catalog(root)
        shutil.copyfile(copy, catalog)

    return restore


def copied(root: Path) -> Callable[[Path], None]:
    """What returns lets what is run in another folder begin with what is kept outside of `root` now.

    That is its database and its bucket, where it has them. Nothing may have the database open.
    """
    url = shared().copy(database(root)) if IN_POSTGRESQL else None
    objects = {}
    if IN_BUCKET:
        before = f"{_prefix(root)}/"
        kept = list(double().objects.items())
        objects = {key.removeprefix(before): value for key, value in kept if key.startswith(before)}

    def begin(other: Path) -> None:
        if url is not None:
            _DATABASES[other] = shared().copy(url)
        if IN_BUCKET:
            _PREFIXES.pop(other, None)
            double().objects.update({f"{_prefix(other)}/{key}": value for key, value in objects.items()})

    return begin


def bucket(root: Path) -> S3Settings:
    """The bucket of what is run in `root`."""
    return double().settings(_prefix(root))


def directory(root: Path, on_disk: str = "pushed") -> Path:
    """Where a server in `root` keeps what is pushed: a directory, or a bucket by the same methods."""
    if not IN_BUCKET:
        return root / on_disk
    BucketPath.double = double()
    return cast("Path", BucketPath(_prefix(root)))


def _prefix(root: Path) -> str:
    if root not in _PREFIXES:
        _PREFIXES[root] = f"kept-{next(_NUMBERS)}"
    return _PREFIXES[root]


@cache
def double() -> S3Double:
    """The server of S3 that all buckets of this run are on."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(S3Double())
