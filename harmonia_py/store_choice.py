"""Which way to the local store works on this machine: the nix-daemon, the database, or none."""

import os
import socket
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from harmonia_py.config import Config

_PROBE_SECONDS: Final = 2.0


class Way(Enum):
    """How the metadata of store paths is read."""

    DAEMON = auto()
    DATABASE = auto()
    NONE = auto()


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The way, in words for the person who started the daemon, and a warning if there is one."""

    way: Way
    words: str
    warning: str | None = None


def choose_store(config: Config) -> StoreChoice:
    """Try the ways in order: the database when it was named, the nix-daemon, the database where Nix keeps it.

    A nix-daemon that is merely not running now is chosen all the same when nothing else is there: it may come back.
    """
    socket_path, database = Path(config.daemon_socket), config.database
    if config.nix_db_path is not None:
        return StoreChoice(Way.DATABASE, f"through the database {database}")
    through_daemon = StoreChoice(Way.DAEMON, f"through the nix-daemon at {socket_path}")
    failure = _connect_failure(socket_path)
    if failure is None:
        return through_daemon
    if os.access(database, os.R_OK):
        return StoreChoice(Way.DATABASE, f"through the database {database}, as no nix-daemon answers ({failure})")
    if socket_path.exists():
        warning = f"the nix-daemon at {socket_path} does not answer ({failure}); requests get 503 until it does"
        return StoreChoice(Way.DAEMON, through_daemon.words, warning)
    if config.upstream:
        return StoreChoice(Way.NONE, "none, only what upstreams have")
    warning = (
        f"no Nix here: there is no nix-daemon at {socket_path} and no database at {database}; "
        "only /nix-cache-info and /health have something to say"
    )
    return StoreChoice(Way.NONE, "none", warning)


def _connect_failure(path: Path) -> str | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except PermissionError:
            return "permission denied; on Debian, its group is nix-users"
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None
