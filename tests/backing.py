"""Where the servers of a test run keep what is pushed, chosen for the whole run: one suite runs on all of them.

    HARMONIA_PY_BACKING="postgresql s3 3" pytest tests/e2e/test_push_client.py     # or make test-matrix

The words are `postgresql` in the place of SQLite, `s3` in that of a directory, and a number of workers. Each `root`,
the folder of a test's server, has a database and a prefix in a bucket of its own, and what is run beside the server
there uses them as well.
"""

import atexit
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

from bucket_files import BucketPath
from postgresql import shared
from s3_double import S3Double, credentials_file

from harmonia_py.storage.s3.settings import S3Settings

_WORDS: Final = frozenset(os.environ.get("HARMONIA_PY_BACKING", "").split())
_NUMBERS: Final = count(1)
_DATABASES: Final[dict[Path, str]] = {}

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


def lose_catalog(root: Path) -> None:
    """What is run in `root` from now on finds no catalog."""
    _DATABASES.pop(root, None)
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


def bucket(root: Path) -> S3Settings:
    """The bucket of what is run in `root`."""
    return double().settings(_prefix(root))


def directory(root: Path, on_disk: str = "pushed") -> Path:
    """Where a server in `root` keeps what is pushed: a directory, or a bucket by the same methods."""
    if not IN_BUCKET:
        return root / on_disk
    BucketPath.double = double()
    return cast("Path", BucketPath(_prefix(root)))


@cache
def _prefix(_root: Path) -> str:
    return f"kept-{next(_NUMBERS)}"


@cache
def double() -> S3Double:
    """The server of S3 that all buckets of this run are on."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(S3Double())
