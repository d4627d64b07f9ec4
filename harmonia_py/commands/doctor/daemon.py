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


class DaemonFacts(Struct, frozen=True, kw_only=True):
    """The facts about the nix-daemon and the database.

    Attributes:
        socket_path: where the nix-daemon should listen.
        described: mode, owner and group of the socket; None when it cannot be seen.
        is_socket: whether it is one.
        user: the user that this process runs as.
        connect_error: why there is no connection.
        error: why there is no conversation over it.
        session: what was agreed on.
        seconds: that the handshake took.
        database: of the store.
        database_readable: whether it can be read.
        database_named: whether the configuration wants it instead of the daemon.
        lack: how bad it is where there is none.
    """

    socket_path: Path
    described: str | None
    is_socket: bool
    user: str
    connect_error: OSError | None = None
    error: DaemonError | None = None
    session: Session | None = None
    seconds: float = 0.0
    database: Path
    database_readable: bool
    database_named: bool
    lack: Lack


async def look_at(config: Config) -> list[Finding]:
    """The way to the store that this configuration describes."""
    socket_path = Path(config.daemon_socket)
    described, is_socket, connect_error = await in_thread(lambda: _look_at_socket(socket_path))
    session, error, began = None, None, time.perf_counter()
    if connect_error is None:
        try:
            connection = await Connection.open(socket_path, _CONNECT_SECONDS)
        except DaemonError as failure:
            error = failure
        else:
            session = connection.session
            connection.close()
            await connection.wait_closed()
    facts = DaemonFacts(
        socket_path=socket_path,
        described=described,
        is_socket=is_socket,
        user=user_name(),
        connect_error=connect_error,
        error=error,
        session=session,
        seconds=time.perf_counter() - began,
        database=config.nix_database,
        database_readable=await in_thread(lambda: may(config.nix_database, os.R_OK)),
        database_named=config.nix_db_path is not None,
        lack=await in_thread(lambda: lack_of_store(config)),
    )
    return judge(facts)


def judge(facts: DaemonFacts) -> list[Finding]:
    """The findings from the facts, for a cache that wants to serve the store."""
    if facts.database_named:
        return [_judge_named_database(facts)]
    if facts.session is not None:
        return [_judge_session(facts, facts.session)]
    what, remedy = _explain(facts)
    absent = isinstance(facts.connect_error, FileNotFoundError)
    if facts.database_readable and absent:
        return [Finding.ok(_NAME, f"there is none; {facts.database} is read instead")]
    if facts.database_readable:
        return [Finding.warning(_NAME, f"{what}; {facts.database} is read instead", remedy)]
    return [_judge_lack(facts.lack if absent else Lack.FAULT, what, remedy)]


def _judge_lack(lack: Lack, what: str, remedy: str) -> Finding:
    if lack is Lack.NO_FAULT:
        return Finding.ok(_NAME, "there is no Nix here; only what upstreams have and clients push is served")
    if lack is Lack.DOUBT:
        return Finding.warning(_NAME, f"{what}; only what clients push is served", remedy)
    return Finding.failure(_NAME, what, remedy)


def _judge_named_database(facts: DaemonFacts) -> Finding:
    if facts.database_readable:
        return Finding.ok("database", f"{facts.database} can be read, and the nix-daemon is not needed")
    what = f"{facts.database}: {facts.user} cannot read it"
    return Finding.failure("database", what, "mend nix_db_path or the permissions, or remove it to use the nix-daemon")


def _judge_session(facts: DaemonFacts, session: Session) -> Finding:
    trust = {True: ", trusts us (more than is needed)", False: ", does not trust us (nor needs to)", None: ""}
    milliseconds = facts.seconds * 1000
    what = f"Nix {session.nix_version} answers {facts.user} in {milliseconds:.0f} ms{trust[session.trusted]}"
    return Finding.ok(_NAME, what)


def _explain(facts: DaemonFacts) -> tuple[str, str]:
    path, user = facts.socket_path, facts.user
    if isinstance(facts.connect_error, PermissionError):
        seen = f": it is {facts.described}" if facts.described else ", nor see it"
        remedy = (
            f"give {user} a group that may: on Debian `usermod -aG nix-users {user}`, in a unit SupplementaryGroups=; "
            "or SocketMode= of nix-daemon.socket, and look at the directories above"
        )
        return f"{path}: {user} may not connect{seen}", remedy
    if isinstance(facts.connect_error, FileNotFoundError | NotADirectoryError):
        remedy = "`systemctl start nix-daemon.socket`, install Nix, or set daemon_socket"
        return f"there is no socket at {path}", remedy
    if not facts.is_socket:
        return f"{path} is no socket", "set daemon_socket to where the nix-daemon listens"
    if facts.connect_error is not None:
        reason = (facts.connect_error.strerror or "no answer in time").lower()
        return f"{path}: {reason}", "`systemctl restart nix-daemon.socket nix-daemon`; its log says why it went"
    if isinstance(facts.error, DaemonUnreachable):
        remedy = f"add {user} to allowed-users in nix.conf and restart the nix-daemon; its log names refused users"
        return f"{path}: it hangs up on {user} before it says a word", remedy
    return f"{path}: {facts.error}", "Nix 2.8 or later is needed; set daemon_socket if this is something else"


def _look_at_socket(path: Path) -> tuple[str | None, bool, OSError | None]:
    described, is_socket = None, False
    with suppress(OSError):
        status = path.stat()
        described, is_socket = describe(status), stat.S_ISSOCK(status.st_mode)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return described, is_socket, error
    return described, is_socket, None
