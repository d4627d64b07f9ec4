"""The way to the local store: the nix-daemon's socket and whether it lets us in, or the database in its place."""

import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.commands.doctor.finding import Finding, in_thread
from harmonia_py.commands.shared.user import describe, may, user_name
from harmonia_py.config.settings import Config
from harmonia_py.errors import DaemonError, DaemonUnreachable
from harmonia_py.nix.handshake import Session
from harmonia_py.store.daemon.connection import Connection
from harmonia_py.wiring.store_choice import Lack, lack_of_store

_CONNECT_SECONDS: Final = 5.0
_NAME: Final = "nix-daemon"


class _Place(Struct, frozen=True):
    """The place where the nix-daemon should listen.

    Attributes:
        path: of its socket.
        described: mode, owner and group of the socket; None when it cannot be seen.
        is_socket: whether it is one.
        error: why there is no connection; None when there is.
    """

    path: Path
    described: str | None
    is_socket: bool
    error: OSError | None


async def look_at(config: Config) -> list[Finding]:
    """The way to the store that this configuration describes, for a cache that wants to serve it."""
    user, database = user_name(), config.nix_database
    is_readable = await in_thread(lambda: may(database, os.R_OK))
    if config.nix_db_path is not None:
        return [_judge_named_database(database, user, is_readable=is_readable)]
    place = await in_thread(lambda: _look_at_socket(Path(config.daemon_socket)))
    refusal: DaemonError | None = None
    if place.error is None:
        began = time.perf_counter()
        try:
            connection = await Connection.open(place.path, _CONNECT_SECONDS)
        except DaemonError as error:
            refusal = error
        else:
            connection.close()
            await connection.wait_closed()
            return [_judge_session(connection.session, user, time.perf_counter() - began)]
    what, remedy = _explain(place, refusal, user)
    absent = isinstance(place.error, FileNotFoundError)
    if is_readable and absent:
        return [Finding.ok(_NAME, f"there is none; {database} is read instead")]
    if is_readable:
        return [Finding.warning(_NAME, f"{what}; {database} is read instead", remedy)]
    return [_judge_lack(await in_thread(lambda: lack_of_store(config)) if absent else Lack.FAULT, what, remedy)]


def _judge_lack(lack: Lack, what: str, remedy: str) -> Finding:
    if lack is Lack.NO_FAULT:
        return Finding.ok(_NAME, "there is no Nix here; only what upstreams have and clients push is served")
    if lack is Lack.DOUBT:
        return Finding.warning(_NAME, f"{what}; only what clients push is served", remedy)
    return Finding.failure(_NAME, what, remedy)


def _judge_named_database(database: Path, user: str, *, is_readable: bool) -> Finding:
    if is_readable:
        return Finding.ok("database", f"{database} can be read, and the nix-daemon is not needed")
    what = f"{database}: {user} cannot read it"
    return Finding.failure("database", what, "mend nix_db_path or the permissions, or remove it to use the nix-daemon")


def _judge_session(session: Session, user: str, seconds: float) -> Finding:
    trust = {True: ", trusts us (more than is needed)", False: ", does not trust us (nor needs to)", None: ""}
    what = f"Nix {session.nix_version} answers {user} in {seconds * 1000:.0f} ms{trust[session.trusted]}"
    return Finding.ok(_NAME, what)


def _explain(place: _Place, refusal: DaemonError | None, user: str) -> tuple[str, str]:
    path = place.path
    if isinstance(place.error, PermissionError):
        seen = f": it is {place.described}" if place.described else ", nor see it"
        remedy = (
            f"give {user} a group that may: on Debian `usermod -aG nix-users {user}`, in a unit SupplementaryGroups=; "
            "or SocketMode= of nix-daemon.socket, and look at the directories above"
        )
        return f"{path}: {user} may not connect{seen}", remedy
    if isinstance(place.error, FileNotFoundError | NotADirectoryError):
        remedy = "`systemctl start nix-daemon.socket`, install Nix, or set daemon_socket"
        return f"there is no socket at {path}", remedy
    if not place.is_socket:
        return f"{path} is no socket", "set daemon_socket to where the nix-daemon listens"
    if place.error is not None:
        reason = (place.error.strerror or "no answer in time").lower()
        return f"{path}: {reason}", "`systemctl restart nix-daemon.socket nix-daemon`; its log says why it went"
    if isinstance(refusal, DaemonUnreachable):
        remedy = f"add {user} to allowed-users in nix.conf and restart the nix-daemon; its log names refused users"
        return f"{path}: it hangs up on {user} before it says a word", remedy
    return f"{path}: {refusal}", "Nix 2.8 or later is needed; set daemon_socket if this is something else"


def _look_at_socket(path: Path) -> _Place:
    described, is_socket, failure = None, False, None
    with suppress(OSError):
        status = path.stat()
        described, is_socket = describe(status), stat.S_ISSOCK(status.st_mode)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            failure = error
    return _Place(path, described, is_socket, failure)
