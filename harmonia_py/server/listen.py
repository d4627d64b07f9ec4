"""Listening sockets: TCP, Unix, and those that systemd hands over."""

import contextlib
import errno
import grp
import os
import re
import socket
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.errors import ConfigError

# Connections that the kernel keeps for us while every worker is busy; it caps this at net.core.somaxconn.
BACKLOG: Final = 4096
# sd_listen_fds(3): descriptors that systemd passes begin here.
FIRST_PASSED_FD: Final = 3

_TCP: Final = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^\[\]:\s]*)):(?P<port>[0-9]{1,5})", re.ASCII
)
_MAX_PORT: Final = 65535
_EVERYWHERE: Final = "::"
_NOT_HERE: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


class TcpAddress(Struct, frozen=True):
    """`host:port`, `[IPv6]:port`, or `:port` for every interface. Port 0 lets the kernel choose."""

    host: str
    port: int


class UnixAddress(Struct, frozen=True):
    """`unix:/path`."""

    path: Path


class Listener(Struct, frozen=True):
    """A socket that listens, and the scheme it is spoken to with: `http` or `https`."""

    socket: socket.socket
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The URL by which a client on this machine reaches it."""
        name = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{name}"
        host, port = name[:2]
        if host in {"::", "0.0.0.0"}:  # noqa: S104  # compared, not bound
            host = "localhost"
        return f"{self.scheme}://[{host}]:{port}" if ":" in host else f"{self.scheme}://{host}:{port}"


def parse_address(text: str) -> TcpAddress | UnixAddress:
    """Read one value of `bind`.

    Raises:
        ConfigError: neither `host:port` nor `unix:/path`.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or "\0" in path:
            raise ConfigError(f"bind: {text!r}: a Unix socket is named by an absolute path, unix:/run/harmonia.sock")
        return UnixAddress(Path(path))
    match = _TCP.fullmatch(text)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise ConfigError(f"bind: {text!r}: expected host:port, [IPv6]:port or unix:/path")
    return TcpAddress(match["ipv6"] or match["host"] or _EVERYWHERE, int(match["port"]))


class Permissions(Struct, frozen=True):
    """The access to a Unix socket: the mode of its file, and its group if that is not the process's own."""

    mode: int = 0o666
    group: str | None = None


def open_listeners(
    addresses: list[str],
    environment: Mapping[str, str],
    scheme: str = "http",
    permissions: Permissions = Permissions(),  # noqa: B008  # it is frozen
) -> list[Listener]:
    """The sockets systemd passed, when it passed any; else one or more for each address.

    Raises:
        ConfigError: a value that does not parse, or cannot be bound.
    """
    sockets = _passed_sockets(environment)
    if not sockets:
        with ExitStack() as opened:
            for text in addresses:
                for sock in _open(text, permissions):
                    sockets.append(opened.enter_context(sock))
            # All of them, or none.
            opened.pop_all()
    return [Listener(sock, scheme) for sock in sockets]


def _open(text: str, permissions: Permissions) -> list[socket.socket]:
    address = parse_address(text)
    try:
        return [_open_unix(address.path, permissions)] if isinstance(address, UnixAddress) else _open_tcp(address)
    except OSError as error:
        raise ConfigError(f"bind: cannot listen on {text}: {error.strerror or error}") from None


def _passed_sockets(environment: Mapping[str, str]) -> list[socket.socket]:
    count = environment.get("LISTEN_FDS", "")
    # LISTEN_PID is absent when a simple wrapper passes sockets; when it is there it must be us.
    if not count.isdecimal() or environment.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return []
    sockets = []
    for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + int(count)):
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise ConfigError(f"LISTEN_FDS: descriptor {fd} is no socket")
        except OSError:
            raise ConfigError(f"LISTEN_FDS: there is no descriptor {fd}") from None
        sock = socket.socket(fileno=fd)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(f"LISTEN_FDS: descriptor {fd} does not listen for connections")
        sock.set_inheritable(False)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _open_tcp(address: TcpAddress) -> list[socket.socket]:
    """A socket for each address that the host's name stands for and that this machine has."""
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, error.strerror) from None
    missing = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    with ExitStack() as opened:
        sockets = []
        for family, kind, protocol, _, name in dict.fromkeys(infos):
            try:
                sockets.append(opened.enter_context(_listening(socket.socket(family, kind, protocol), name)))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if not sockets and address.host == _EVERYWHERE:
            # A machine without IPv6: `[::]` means every interface there too.
            sockets = [_listening(socket.socket(socket.AF_INET, socket.SOCK_STREAM), ("", address.port))]
        if not sockets:
            raise missing
        opened.pop_all()
    return sockets


def _listening(sock: socket.socket, name: tuple[object, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            # `[::]` also takes IPv4, as Harmonia's default does.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(name)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix(path: Path, permissions: Permissions) -> socket.socket:
    group = -1 if permissions.group is None else find_group(permissions.group)
    _remove_stale(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        # No client can connect before it listens.
        if permissions.group is not None:
            os.chown(path, -1, group)
        path.chmod(permissions.mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def find_group(name: str) -> int:
    """The number of a group, from its name or its number.

    Raises:
        ConfigError: there is no such group.
    """
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"unix_socket_group: there is no group {name!r}") from None


def _remove_stale(path: Path) -> None:
    """Remove a socket on which no process listens. Anything else that has the name stays, and binding fails."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "something that is no socket has this name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
