"""The catalog of a configuration: its place, and its opening, which imports the database."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from harmonia_py.database.catalog import SqlCatalog
    from harmonia_py.database.transaction import Database

_FILE: Final = "catalog.sqlite"
_LOCKS: Final = (".lock", ".collecting")
_OF_SQLITE: Final = ("-wal", "-shm")
_PUSHED: Final = "pushed"

OWN_DIRECTORY: Final = ".catalog"
"""The directory of the catalog inside a directory of kept files."""


def catalog_file(config: Config) -> Path:
    """The file of the catalog, which may not be there yet."""
    return Path(config.state_directory or ".") / _FILE


def has_catalog(config: Config) -> bool:
    """Whether there is a catalog to open: a shared one, or a file that a command has made."""
    return config.database.url is not None or catalog_file(config).exists()


def made_caches(config: Config) -> Sequence[Mapping[str, object]]:
    """The settings of the named caches in the catalog's file, without opening it to be written.

    A file that cannot be read counts as one cache without settings: what is wrong with it is said elsewhere.
    """
    file = catalog_file(config)
    if not os.access(file, os.F_OK):
        return []
    from harmonia_py.database.sqlite_file import settings_of_caches  # noqa: PLC0415

    try:
        return settings_of_caches(file)
    except StorageError:
        return [{}]


def wants_catalog(config: Config) -> bool:
    """Whether the configuration needs a catalog, so that one is made."""
    return bool(config.caches) or bool(config.oidc) or config.attic.enabled


def catalog_place(config: Config) -> str:
    """The place of the catalog, for people: without a password in the URL."""
    return config.database.url or str(catalog_file(config))


def pushed_directory(config: Config) -> Path:
    """The directory of pushed files."""
    return Path(config.state_directory or ".") / _PUSHED


async def open_catalog(config: Config) -> "SqlCatalog":
    """The catalog, which is made where there is none.

    Raises:
        CatalogError: it is damaged, or was used by a newer release.
        ConfigError: its password cannot be read, or what speaks to it is not installed.
        StorageError: it cannot be opened or written.
    """
    from harmonia_py.database.catalog import SqlCatalog  # noqa: PLC0415

    if config.database.url is not None:
        return SqlCatalog(await _open_postgresql(config, config.database.url))

    from harmonia_py.database.sqlite import SqliteDatabase  # noqa: PLC0415

    file = catalog_file(config)
    catalog = SqlCatalog(await SqliteDatabase.open(file))
    hand_over(file)
    return catalog


async def _open_postgresql(config: Config, url: str) -> "Database":
    try:
        from harmonia_py.database.postgresql.connections import Address  # noqa: PLC0415
        from harmonia_py.database.postgresql.database import PostgresDatabase  # noqa: PLC0415
    except ImportError:
        raise ConfigError("database.url: asyncpg is not installed; install harmonia-py[postgresql]") from None

    password = await asyncio.to_thread(key_files.read_database_password, config, os.environ)
    return await PostgresDatabase.open(Address(url, password, config.database.connections))


def hand_over(file: Path) -> None:
    """Give the catalog in `file`, if root has made it, to the owner of its directory: the user of the service."""
    if os.geteuid() != 0:
        return
    directory = file.parent
    owner = directory.stat()
    if directory.name == OWN_DIRECTORY:
        owner = directory.parent.stat()
        os.chown(directory, owner.st_uid, owner.st_gid, follow_symlinks=False)
    locks = [file.with_suffix(suffix) for suffix in _LOCKS]
    for path in (file, *locks, *(file.with_name(file.name + suffix) for suffix in _OF_SQLITE)):
        with suppress(FileNotFoundError):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
