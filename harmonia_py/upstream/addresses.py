"""The addresses to which an upstream may lead: none in the network behind us, unless the upstream is there itself.

An upstream chooses the URLs of its NARs, its redirects, and the addresses that its own name has. One on the public net
that names `169.254.169.254` or `localhost` wants us to fetch from a place that only we reach (server-side request
forgery). So whether an upstream is inside this network is known before the first name is resolved: from its URL, or a
setting.
"""

import ipaddress
import socket
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# No name server of the public net has names that end like this: RFC 6761, RFC 6762 with its appendix G, RFC 8375, and
# ICANN's decisions of 2018 (.home, .corp) and 2024 (.internal). So only this network decides what they lead to.
_LOCAL_SUFFIXES: Final = (
    *(".localhost", ".local", ".internal", ".home.arpa", ".lan", ".localdomain"),
    *(".home", ".corp", ".intranet", ".private"),
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def parse_address(host: str) -> Address | None:
    """The address that `host` is; None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether every host of the public net can reach it, so that nothing is given away when this server does."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def is_local(host: str) -> bool:
    """Whether the host of a URL is inside this network. No name server is asked.

    It is an address that is not public, a name without a dot, or one of a domain that the public net does not have.
    """
    address = parse_address(host)
    if address is not None:
        return not is_public(address)
    name = host.lower().rstrip(".")
    return "." not in name or name.endswith(_LOCAL_SUFFIXES)


class Guard(AbstractResolver):
    """Resolves names, and leaves out addresses where an upstream must not lead.

    Args:
        local_network: whether the upstream is inside this network; then it may lead anywhere.
        proxies: hosts that the environment names as proxies, wherever they are.
    """

    def __init__(self, *, local_network: bool, proxies: frozenset[str]) -> None:
        self._local_network = local_network
        self._proxies = proxies
        self._inner = ThreadedResolver()

    def allows(self, host: str) -> bool:
        """Whether a URL may have this host; a name is looked at again when it is resolved."""
        address = parse_address(host)
        return self._local_network or address is None or is_public(address)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            OSError: it has none, or none that is allowed.
        """
        found = await self._inner.resolve(host, port, family)
        if self._local_network or host in self._proxies:
            return found
        allowed = [one for one in found if is_public(ipaddress.ip_address(one["host"].partition("%")[0]))]
        if not allowed:
            raise OSError(
                None, f"{host} is inside this network; if that is where this upstream is, set local_network = true"
            )
        return allowed

    async def close(self) -> None:
        """Nothing to end."""
