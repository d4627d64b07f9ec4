"""The store of this machine for commands that push from it, as the environment variables of Nix lead to it."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from harmonia_py.config import file as config_file
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.store.closure import StoreClosures
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.daemon.temp_roots import TempRoots
from harmonia_py.store.registrations import StoreRegistrations
from harmonia_py.store.sqlite import SqliteStore
from harmonia_py.wiring.store_choice import Way, choose_store

# https://nix.dev/manual/nix/latest/command-ref/env-common
_VARIABLES: Final = {"NIX_STORE_DIR": "virtual_nix_store", "NIX_DAEMON_SOCKET_PATH": "daemon_socket"}
# Without a path, `choose_store` finds the daemon, or the database where there is none.
_OF_THIS_MACHINE: Final = frozenset({"", "auto", "daemon", "local"})


def store_settings(environment: Mapping[str, str]) -> Mapping[str, Any]:
    """The settings that lead to the store that Nix would use.

    Source: `openStore` in `src/libstore/store-api.cc` of Nix: `unix://SOCKET`, `local`, or the root of a chroot store,
    each of the first two with `?root=DIRECTORY`.

    Raises:
        ConfigError: it is a store elsewhere.
    """
    settings: dict[str, Any] = {key: environment[name] for name, key in _VARIABLES.items() if environment.get(name)}
    remote = environment.get("NIX_REMOTE", "")
    place, _, query = remote.partition("?")
    root = parse_qs(query).get("root", [""])[0]
    if place.startswith("/"):
        place, root = "local", place
    if place.startswith("unix://"):
        settings["daemon_socket"] = urlsplit(place).path or settings.get("daemon_socket", "")
    elif place not in _OF_THIS_MACHINE:
        raise ConfigError(f"NIX_REMOTE={remote}: only what is in a store of this machine can be pushed from it")
    if root:
        settings["real_nix_store"] = f"{root}/nix/store"
        if not place.startswith("unix://"):  # the daemon of the machine is one of another store
            settings["nix_db_path"] = f"{root}/nix/var/nix/db/db.sqlite"
    return {key: value for key, value in settings.items() if value}


def store_config(environment: Mapping[str, str]) -> Config:
    """The settings that lead to the store that Nix would use.

    Raises:
        ConfigError: a variable does not parse, or names a store elsewhere.
    """
    return config_file.load(None, {}, store_settings(environment))


@asynccontextmanager
async def open_local_paths(config: Config) -> AsyncIterator[StoreClosures]:
    """The paths of the local store.

    If this user may read the database, one question to it tells a closure; otherwise the nix-daemon is asked path by
    path. A daemon also protects pushed paths from garbage collection.

    Raises:
        ConfigError: there is no store here.
    """
    choice = choose_store(config)
    if choice.way is Way.NONE:
        raise ConfigError(f"there is no store to push from: {choice.warning or choice.words}")
    async with AsyncExitStack() as stack:
        store = StoreClosures(store_dir=config.store_dir, real_store=config.real_store)
        if choice.way is Way.DATABASE or os.access(config.nix_database, os.R_OK):
            store.database = SqliteStore(config.nix_database, config.store_dir)
            stack.push_async_callback(store.database.aclose)
        if choice.way is Way.DAEMON:
            store.daemon = DaemonStore(Path(config.daemon_socket), config.store_dir)
            stack.push_async_callback(store.daemon.aclose)
            store.roots = TempRoots(Path(config.daemon_socket), config.store_dir)
            stack.push_async_callback(store.roots.aclose)
        yield store


@asynccontextmanager
async def open_registrations(config: Config) -> AsyncIterator[StoreRegistrations]:
    """The order in which paths become valid in the local store, from its database.

    Raises:
        ConfigError: this user may not read it.
    """
    if not os.access(config.nix_database, os.R_OK):
        raise ConfigError(
            f"{config.nix_database} cannot be read, and nothing else tells what comes into the store: "
            "let Nix tell it, with `harmonia-py hook add` as its post-build-hook"
        )
    store = SqliteStore(config.nix_database, config.store_dir)
    try:
        yield StoreRegistrations(store, config.store_dir)
    finally:
        await store.aclose()
