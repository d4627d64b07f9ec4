"""The client of a request: the address at the other end, or the one that a trusted proxy names."""

import asyncio
import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

from aiohttp import web
from msgspec import Struct, field

from harmonia_py.errors import FormatError
from harmonia_py.web.admission.rate_limit import RateLimiter

UNIX: Final = "unix"
GONE: Final = "gone"
_FORWARDED_FOR: Final = "X-Forwarded-For"
# An internet provider gives each customer so much of an IPv6 address.
_IPV6_PREFIX: Final = 64
_KNOWN: Final = 4096


class Proxies:
    """The proxies that are believed when they name their clients' addresses: networks, and perhaps the Unix sockets."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        texts = tuple(networks)
        self._unix = UNIX in texts
        self._networks = tuple(ip_network(text) for text in texts if text != UNIX)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Read addresses, networks such as `10.0.0.0/8`, and `unix`.

        Raises:
            FormatError: something else.
        """
        try:
            return cls(texts)
        except ValueError as error:
            raise FormatError(str(error)) from None

    def client(self, peer: str, forwarded_for: str) -> str:
        """The last address of `forwarded_for` that is no proxy's; `peer` when that is no proxy, or says nothing."""
        client = peer
        hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
        while hops and self.has(client):
            address = _parse(hops.pop())
            if address is None:
                break
            client = str(address)
        return client

    def has(self, client: str) -> bool:
        """Whether the address `client` is one of theirs."""
        if client == UNIX:
            return self._unix
        address = _parse(client)
        return address is not None and any(address in network for network in self._networks)


class Clients(Struct, frozen=True, kw_only=True):
    """Tells clients apart, and counts their requests.

    Attributes:
        proxies: those that are trusted.
        limiter: counts requests; None where they are not limited.
    """

    proxies: Proxies = field(default_factory=Proxies)
    limiter: RateLimiter | None = None

    def counted(self, peer: str) -> str | None:
        """The name under which connections of the address `peer` are counted; None for proxies and Unix sockets."""
        return None if self.proxies.has(peer) else group_of(peer)


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The address at the other end, `unix`, or `gone` for a client that left before it was looked at."""
    if transport is None:
        return GONE
    sock = transport.get_extra_info("socket")
    return peer_name(None if sock is None else sock.family, transport.get_extra_info("peername"))


def peer_name(family: int | None, address: object) -> str:
    """As `peer_of`, for the socket address at the other end as the kernel gives it."""
    if isinstance(address, tuple):
        # A socket for both families shows IPv4 clients as IPv6 addresses.
        return str(address[0]).removeprefix("::ffff:")
    # A client that has no address any more must not get the trust that a Unix socket may have.
    return UNIX if family == socket.AF_UNIX else GONE


def client_of(request: web.BaseRequest, clients: Clients) -> str:
    """The address that `request` comes from."""
    forwarded_for = ",".join(request.headers.getall(_FORWARDED_FOR, []))
    return clients.proxies.client(peer_of(request.transport), forwarded_for)


def share_of(request: web.BaseRequest, clients: Clients) -> str:
    """The client to whose share `request` counts, by `group_of`; clients without an address count as one."""
    return group_of(client_of(request, clients)) or UNIX


@lru_cache(_KNOWN)
def group_of(client: str) -> str | None:
    """The name of a client: an IPv4 address or an IPv6 network; None for a client without an address."""
    address = _parse(client)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_PREFIX), strict=False))
    return None if address is None else str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
