"""The choice of the way to the local store on this machine: the nix-daemon, the database, or none."""

import os
import socket
from enum import Enum, auto
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.config.settings import Config
from harmonia_py.wiring.catalog import made_caches

_PROBE_SECONDS: Final = 2.0
# Said when the socket, or the directory that it is in, may not be used.
_FORBIDDEN: Final = "permission denied; on Debian, members of the group nix-users may, from their next login on"


class Way(Enum):
    """The ways by which the metadata of store paths is read."""

    DAEMON = auto()
    DATABASE = auto()
    NONE = auto()


class Lack(Enum):
    """How bad it is that there is no Nix."""

    FAULT = auto()
    """Nothing is served, or what the configuration names takes a store."""
    DOUBT = auto()
    """There is `[caches.default]` alone: for what is pushed to `/`, or only to say who reads the store."""
    NO_FAULT = auto()
    """What upstreams have, or clients push, is served."""


class StoreChoice(Struct, frozen=True):
    """The chosen way, in words for people as well, with a warning if there is one.

    Attributes:
        may_change: whether a better way may become possible while the server runs.
    """

    way: Way
    words: str
    warning: str | None = None
    may_change: bool = False


def choose_store(config: Config) -> StoreChoice:
    """Try the ways in order: the database when it was named, the nix-daemon, the database where Nix keeps it.

    A nix-daemon that does not run now is chosen all the same if there is no other way: it may come back.
    """
    socket_path, database = Path(config.daemon_socket), config.nix_database
    if config.nix_db_path is not None:
        return StoreChoice(Way.DATABASE, f"through the database {database}")
    through_daemon = StoreChoice(Way.DAEMON, f"through the nix-daemon at {socket_path}")
    failure = _connect_failure(socket_path)
    if failure is None:
        return through_daemon
    if may_read_database(config):
        return StoreChoice(Way.DATABASE, f"through the database {database}, as no nix-daemon answers ({failure})")
    if failure == _FORBIDDEN or os.access(socket_path, os.F_OK):
        warning = f"the nix-daemon at {socket_path} does not answer ({failure}); requests get 503 until it does"
        return StoreChoice(Way.DAEMON, through_daemon.words, warning, may_change=failure == _FORBIDDEN)
    lack = lack_of_store(config)
    if lack is Lack.NO_FAULT:
        return StoreChoice(Way.NONE, "none, only what upstreams have and clients push", may_change=True)
    served = "no path of it is served or taken in" if lack is Lack.FAULT else "only what clients push is served"
    warning = (
        f"no Nix here: there is no nix-daemon at {socket_path} and no database at {database}. Until there is one, "
        f"which is looked for every few seconds, {served}: install Nix, or say where a store is "
        "(daemon_socket, real_nix_store, nix_db_path), or name an upstream or a cache that clients push to"
    )
    return StoreChoice(Way.NONE, "none", warning, may_change=True)


def lack_of_store(config: Config) -> Lack:
    """How bad it is where there is no Nix. Reads which caches commands have made, if no table says enough."""
    default = config.default_cache
    if (default is not None and default.into == "store") or any(one.local_store for one in config.caches.values()):
        return Lack.FAULT
    if config.upstream or config.database.url is not None or config.caches.keys() - {DEFAULT}:
        return Lack.NO_FAULT
    made = made_caches(config)
    if made:
        return Lack.FAULT if any(one.get("local_store") for one in made) else Lack.NO_FAULT
    return Lack.FAULT if default is None else Lack.DOUBT


def may_read_database(config: Config) -> bool:
    """Whether the database of a nix-daemon is read here, beside asking the daemon."""
    return os.access(config.nix_database, os.R_OK)


def _connect_failure(path: Path) -> str | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except PermissionError:
            return _FORBIDDEN
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None
