"""Copies of catalogs: of one into another, each a file or the URL of a database, and one to try changes on."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.copying.copy import Source, Target, copy
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.sqlite_file import copy_database
from harmonia_py.wiring.catalog import catalog_file, hand_over


async def copy_catalog(
    source: str,
    target: str,
    *,
    password: str | None,
    before_release: Callable[[], object],
    report: Callable[[int], object] = lambda _: None,
) -> Mapping[str, int]:
    """Copy the catalog at one place to another; returns the number of rows of each table.

    No other process can write to the source until `before_release`, called when the copy is whole, has returned.

    Raises:
        StorageError: nothing was copied.
    """
    async with reading(source, password, hold=True) as rows:
        async with writing(target, password) as there:
            done = await copy(rows, there, report)
        before_release()
    return done


@asynccontextmanager
async def copied_catalog(config: Config) -> AsyncIterator[SqlCatalog]:
    """A copy of the catalog of a configuration, to try changes on; it is removed with the context.

    Raises:
        ConfigError: its password cannot be read.
        StorageError: it cannot be copied.
    """
    with TemporaryDirectory() as directory:
        file = Path(directory, "catalog.sqlite")
        if config.database.url is None:
            await asyncio.to_thread(copy_database, catalog_file(config), file)
        else:
            password = await asyncio.to_thread(key_files.read_database_password, config, os.environ)
            async with (
                reading(config.database.url, password, hold=False) as source,
                writing(str(file), None) as target,
            ):
                await copy(source, target)
        catalog = SqlCatalog(await SqliteDatabase.open(file))
        try:
            yield catalog
        finally:
            await catalog.aclose()


def reading(place: str, password: str | None, *, hold: bool) -> AbstractAsyncContextManager[Source]:
    """The catalog at a place, open to be read; with `hold`, processes that want to write there wait."""
    if "://" in place:
        from harmonia_py.database.copying import postgresql  # noqa: PLC0415  # asyncpg may not be installed
        from harmonia_py.database.postgresql.connections import Address  # noqa: PLC0415  # as above

        return postgresql.reading(Address(place, password), hold=hold)
    from harmonia_py.database.copying import sqlite  # noqa: PLC0415  # as above

    return sqlite.reading(Path(place), hold=hold)


@asynccontextmanager
async def writing(place: str, password: str | None) -> AsyncIterator[Target]:
    """A new catalog at a place, which appears when the context ends without an exception.

    A file that root writes belongs to the user whose directory it is in.
    """
    if "://" in place:
        from harmonia_py.database.copying import postgresql  # noqa: PLC0415  # asyncpg may not be installed
        from harmonia_py.database.postgresql.connections import Address  # noqa: PLC0415  # as above

        async with postgresql.writing(Address(place, password)) as target:
            yield target
    else:
        from harmonia_py.database.copying import sqlite  # noqa: PLC0415  # as above

        async with sqlite.writing(Path(place)) as file:
            yield file
        await asyncio.to_thread(hand_over, Path(place))
