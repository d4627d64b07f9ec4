"""The common parts of commands that read or change the catalog."""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.audit import AuditEntry, entry_now
from harmonia_py.catalog.caches import CacheRow, Timestamp, time_by
from harmonia_py.commands.shared.user import user_name
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError, FormatError, naming
from harmonia_py.wiring.catalog import catalog_file, has_catalog, open_catalog

T = TypeVar("T")

# Of a unit with StateDirectory=harmonia-py, and of root without one.
SERVICE_STATE: Final = Path("/var/lib/harmonia-py")

_log = logging.getLogger(__name__)

_LASTS: Final = re.compile(r"([1-9][0-9]{0,5})([mhdwy])", re.ASCII)
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}


def in_catalog(config: Config, work: Callable[[SqlCatalog], Awaitable[T]], *, make: bool = False) -> T:
    """The result of `work` with the catalog; with `make` one is made where there is none.

    Raises:
        ConfigError: there is none.
        StorageError: it cannot be opened, or cannot tell.
    """
    return asyncio.run(_within(opened_catalog(config, make=make), work))


def in_copied_catalog(config: Config, work: Callable[[SqlCatalog], Awaitable[T]]) -> T:
    """The result of `work` with a copy of the catalog, which it may change at will.

    Raises:
        ConfigError: there is none.
        StorageError: it cannot be copied, or cannot tell.
    """
    _check_there_is_one(config)
    from harmonia_py.wiring.copying import copied_catalog  # noqa: PLC0415  # it imports what copies a catalog

    return asyncio.run(_within(copied_catalog(config), work))


async def _within(opening: AbstractAsyncContextManager[SqlCatalog], work: Callable[[SqlCatalog], Awaitable[T]]) -> T:
    async with opening as catalog:
        return await work(catalog)


@asynccontextmanager
async def opened_catalog(config: Config, *, make: bool) -> AsyncIterator[SqlCatalog]:
    """The catalog, while the context lasts; with `make` one is made where there is none.

    Raises:
        ConfigError: there is none.
        StorageError: it cannot be opened.
    """
    if not make:
        _check_there_is_one(config)
    elif not has_catalog(config) and (advice := _where_the_service_is()):
        _log.warning("%s: made; %s", catalog_file(config), advice)
    async with aclosing(await open_catalog(config)) as catalog:
        yield catalog


def _check_there_is_one(config: Config) -> None:
    if not has_catalog(config):
        file = catalog_file(config)
        advice = _where_the_service_is() or "`cache create` and `token create` make one"
        raise ConfigError(f"{file}: there is no catalog yet; {advice}")


def _where_the_service_is() -> str:
    """Advice for a user whose catalog is another one than that of the service on this machine; empty for others."""
    is_own = os.geteuid() == 0 or bool(os.environ.get("STATE_DIRECTORY"))
    if is_own or not os.path.lexists(SERVICE_STATE):
        return ""
    return f"the service here has its own in {SERVICE_STATE}: call this as root"


def named_cache(text: str) -> CacheName:
    """The name of a cache of the catalog.

    Raises:
        ConfigError: it is none, or that of the cache at `/`.
    """
    name = any_cache(text)
    if name == DEFAULT:
        raise ConfigError(f"{name} is the cache at /, which harmonia.toml describes")
    return name


def any_cache(text: str) -> CacheName:
    """The name of a cache, also that of the one at `/`.

    Raises:
        ConfigError: it is none.
    """
    with naming(repr(text)):
        return CacheName.parse(text)


async def found_cache(catalog: SqlCatalog, name: CacheName) -> CacheRow:
    """The cache of this name.

    Raises:
        ConfigError: there is none.
    """
    row: CacheRow | None = await catalog.caches.find(name)
    if row is None:
        raise ConfigError(f"there is no cache {name}; `cache list` shows which there are")
    return row


def seconds_of(option: str, text: str) -> int:
    """A time such as 90d, in seconds.

    Raises:
        FormatError: it is none.
    """
    match = _LASTS.fullmatch(text)
    if match is None:
        raise FormatError(f"{option} {text}: not a time such as 12h, 90d, 2w, 1y")
    return int(match[1]) * _UNITS[match[2]]


def now() -> Timestamp:
    """The present time, in whole seconds."""
    return time_by(time.time)


def user() -> str:
    """The principal of this command."""
    return f"user {user_name()}"


def entry(action: str, *, cache: str = "", subject: str = "", **detail: Any) -> AuditEntry:
    """An entry of the audit log for a change by the user of this command."""
    return entry_now(user(), action, cache=cache, subject=subject, detail=detail)
