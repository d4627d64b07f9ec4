"""The schema, as numbered files: each is one transaction, run once, in order, never backwards."""

import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Final

from harmonia_py.database.transaction import Statement, Transaction, ask, ask_number
from harmonia_py.errors import CatalogError

_COMMENT: Final = re.compile(r"--[^\n]*")

_TABLE: Final = "create table if not exists migrations (version integer primary key, applied_s bigint not null)"
_VERSION: Final = "select coalesce(max(version), 0) from migrations"


# Not found out from the files: each worker would read all of them at its start.
_NEWEST: Final = 11


def versions() -> list[int]:
    """The numbers of the files, in order: from 1 on, without a gap."""
    return list(range(1, _NEWEST + 1))


def statements(version: int) -> Iterator[str]:
    """The statements of a file. None has a semicolon or two dashes in a string."""
    # Not by `importlib.resources`, whose import takes 450 KB and as long as that of ten modules.
    data = pkgutil.get_data(__package__, f"schema/{version:04}.sql")
    assert data is not None
    text = data.decode()
    for statement in _COMMENT.sub("", text).split(";"):
        if statement.strip():
            yield statement.strip()


def made() -> Transaction[int]:
    """When the database was made, in seconds since the epoch."""
    return ask_number("select min(applied_s) from migrations")


def next_step(
    now: int, *, may_be_ahead: int = 0, definition: Callable[[str], str] = lambda sql: sql
) -> Transaction[bool]:
    """Apply the first migration that is missing, if any; whether it was there.

    Args:
        now: seconds since the epoch.
        may_be_ahead: by so many versions the database may be newer: servers that share it are replaced one by one.
        definition: gives a statement of a file as the database takes it.

    Raises:
        CatalogError: the database was used by a newer release.
    """
    yield from ask(_TABLE)
    current, newest = (yield from ask_number(_VERSION)), versions()[-1]
    if current > newest + may_be_ahead:
        raise CatalogError(
            f"the catalog has schema {current}, this release knows none after {newest}: start the newer one again"
        )
    if current >= newest:
        return False
    for statement in statements(current + 1):
        yield Statement(definition(statement))
    yield from ask("insert into migrations (version, applied_s) values ($1, $2)", current + 1, now)
    return True
