"""The addresses of `bind`: free, or taken by a harmonia-py or by another program. The check listens on none."""

import asyncio
import errno
import os
import re
import socket
import ssl
import stat
from http import HTTPStatus
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.commands.doctor.finding import Finding, NoAnswer, in_thread
from harmonia_py.commands.doctor.remote import Remote
from harmonia_py.commands.shared.user import may, user_name
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.server.listen import TcpAddress, UnixAddress, parse_address

_VERSION: Final = re.compile(r"harmonia-py (\S{1,40})\s*")
_NOT_PUBLIC: Final = "that is not public"
_PROBE_SECONDS: Final = 2.0
_FIRST_FREE_PORT: Final = 1024
_EVERYWHERE: Final = frozenset({"::", "0.0.0.0"})  # noqa: S104  # compared, not bound


class AddressFacts(Struct, frozen=True, kw_only=True):
    """One value of `bind`.

    Attributes:
        text: as it was configured.
        error: the errno of binding it; None where it is free.
        version: of the harmonia-py that answers there; None when another program answers, or none does.
        port: of TCP.
        user: the user that would bind it.
    """

    text: str
    error: int | None
    version: str | None
    port: int | None
    user: str


class Served(Struct, frozen=True):
    """The findings about all addresses, and the URL at which a harmonia-py answers, when it does so over TCP."""

    findings: list[Finding]
    url: str | None


async def look_at(config: Config) -> Served:
    """Every address."""
    findings, url = [], None
    for text in config.addresses:
        try:
            address = parse_address(text)
        except ConfigError as error:
            findings.append(Finding.failure("address", str(error), "mend `bind`"))
            continue
        facts, found = await _facts_of(text, address, "http" if config.tls_cert_path is None else "https")
        findings.append(judge(facts))
        url = url or (found if facts.version is not None else None)
    return Served(findings, url)


def judge(facts: AddressFacts) -> Finding:
    """Whether a server can begin there, or has."""
    name = "address"
    if facts.error is None:
        return Finding.ok(name, f"{facts.text}: free; no server listens there now")
    if facts.version is not None:
        return Finding.ok(name, f"{facts.text}: harmonia-py {facts.version} answers")
    what, remedy = _explain(facts, facts.error)
    return Finding.failure(name, f"{facts.text}: {what}", remedy)


def _explain(facts: AddressFacts, error: int) -> tuple[str, str]:
    who = "" if facts.port is None else f": `ss -ltnp sport = :{facts.port}` names it"
    not_allowed = (
        f"{facts.user} may not listen there",
        "choose a directory that can be written, such as that of RuntimeDirectory=, or change `bind`",
    )
    if facts.port is not None and facts.port < _FIRST_FREE_PORT:
        not_allowed = (
            f"{facts.user} may not use ports below 1024",
            "let systemd listen (socket activation), AmbientCapabilities=CAP_NET_BIND_SERVICE, or a proxy",
        )
    explanations = {
        errno.EADDRINUSE: ("taken by another program", f"end that{who}; or change `bind`"),
        errno.EACCES: not_allowed,
        errno.EPERM: not_allowed,
        errno.EADDRNOTAVAIL: (
            "this machine has no such address",
            "look at `ip address`; [::] stands for every address; a unit may wait for network-online.target",
        ),
        errno.EEXIST: ("something that is no socket has this name", "change `bind`"),
    }
    return explanations.get(error, (os.strerror(error).lower(), "change `bind`"))


def unverified_tls() -> ssl.SSLContext:
    """TLS that accepts any certificate: our own has the clients' name for this machine, and not localhost."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return tls


async def _facts_of(text: str, address: TcpAddress | UnixAddress, scheme: str) -> tuple[AddressFacts, str | None]:
    if isinstance(address, UnixAddress):
        error = await in_thread(lambda: _try_unix(address.path))
        version = await in_thread(lambda: _version_at_socket(address.path)) if error == errno.EADDRINUSE else None
        return AddressFacts(text=text, error=error, version=version, port=None, user=user_name()), None
    error = await in_thread(lambda: _try_tcp(address))
    host = "localhost" if address.host in _EVERYWHERE else address.host
    url = f"{scheme}://[{host}]:{address.port}" if ":" in host else f"{scheme}://{host}:{address.port}"
    version = await _version_at(url) if error is not None else None
    return AddressFacts(text=text, error=error, version=version, port=address.port, user=user_name()), url


def _try_tcp(address: TcpAddress) -> int | None:
    """The errno of binding the address; None where it is free. Clients do not notice, because nothing listens."""
    try:
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    result: int | None = errno.EADDRNOTAVAIL
    for family, kind, protocol, _, name in dict.fromkeys(infos):
        try:
            with socket.socket(family, kind, protocol) as sock:
                # As the server does: connections that have ended and linger in the kernel do not count as a user.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.bind(name)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return error.errno
        else:
            result = None
    # A machine without IPv6 listens on IPv4 instead.
    return None if address.host == "::" and result == errno.EADDRNOTAVAIL else result


def _try_unix(path: Path) -> int | None:
    directory = next(one for one in path.parents if one.exists())
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return errno.EEXIST
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_SECONDS)
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):  # the socket that an ended server has left is replaced
        return None if may(directory, os.W_OK | os.X_OK) else errno.EACCES
    except OSError as error:
        return error.errno or errno.EADDRINUSE
    return errno.EADDRINUSE


async def _version_at(url: str) -> str | None:
    try:
        async with asyncio.timeout(_PROBE_SECONDS), Remote(url, tls=unverified_tls(), proxies=False) as remote:
            answer = await remote.ask("version", 1024)
            if answer.status == HTTPStatus.UNAUTHORIZED:
                # A server that is not public does not tell strangers its version, but tells that it lives.
                health = await remote.ask("health", 1024)
                return _NOT_PUBLIC if health.body == b"OK\n" else None
    except (NoAnswer, TimeoutError):
        return None
    match = _VERSION.fullmatch(answer.body.decode(errors="replace")) if answer.status == HTTPStatus.OK else None
    return None if match is None else match[1]


def _version_at_socket(path: Path) -> str | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PROBE_SECONDS)
            sock.connect(str(path))
            sock.sendall(b"GET /version HTTP/1.0\r\nHost: localhost\r\n\r\n")
            data = b""
            while len(data) < 4096 and (part := sock.recv(4096)):  # noqa: PLR2004  # headers and one line
                data += part
    except OSError:
        return None
    match = _VERSION.fullmatch(data.partition(b"\r\n\r\n")[2].decode(errors="replace"))
    return None if match is None else match[1]
