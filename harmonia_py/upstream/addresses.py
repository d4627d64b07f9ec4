"""Where an upstream may lead: not to the network behind us, unless it is there itself.

An upstream chooses the URLs of its NARs and its redirects. One on the public net that names `169.254.169.254` or
`localhost` wants us to fetch what only we can reach (server-side request forgery).
"""

import ipaddress
import socket
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def parse_address(host: str) -> Address | None:
    """The address that `host` is; None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether everybody on the net can reach it, so that our reaching it gives nothing away."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


class Guard(AbstractResolver):
    """Resolves names, and leaves out addresses where an upstream must not lead.

    Args:
        own_hosts: that the person who configured the upstream named: its own, and that of a proxy.
    """

    def __init__(self, own_hosts: frozenset[str]) -> None:
        self._own_hosts = own_hosts
        self._inner = ThreadedResolver()
        self._is_inside = any(not is_public(address) for host in own_hosts if (address := parse_address(host)))

    def allows(self, host: str) -> bool:
        """Whether a URL may have this host; a name is looked at again when it is resolved."""
        address = parse_address(host)
        return address is None or host in self._own_hosts or self._is_inside or is_public(address)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`.

        Raises:
            OSError: it has none, or none that is allowed.
        """
        found = await self._inner.resolve(host, port, family)
        inside = [one for one in found if not is_public(ipaddress.ip_address(one["host"].partition("%")[0]))]
        if host in self._own_hosts:
            self._is_inside = self._is_inside or bool(inside)
            return found
        allowed = found if self._is_inside else [one for one in found if one not in inside]
        if not allowed:
            raise OSError(None, f"{host} is inside this network, where this upstream must not lead")
        return allowed

    async def close(self) -> None:
        """Nothing to end."""
