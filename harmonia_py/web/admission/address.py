"""The URL under which a visitor reached this cache, for the blocks to copy."""

import re
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.web.state import CACHE, SERVING

# A name, an IPv4 or a bracketed IPv6 address, perhaps a port. Everything else in a Host header is an attack.
_HOST: Final = re.compile(
    r"(?:(?=.{1,253}(?::|\Z))[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*\.?|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?",
    re.IGNORECASE | re.ASCII,
)
_LOOPBACK: Final = re.compile(r"(?:localhost|127(?:\.[0-9]+){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE | re.ASCII)
_SCHEMES: Final = frozenset(["http", "https"])
_WITHOUT_A_HOST: Final = "http://localhost:5000"


def url_of(request: web.Request) -> str:
    """The URL of the request's cache without a trailing slash, safe to print into any block of Nix or shell.

    The visitor's `Host` decides, with the scheme of a proxy's `X-Forwarded-Proto`. The configured URL stands in for a
    missing or odd one, and for a loopback address: that comes from a proxy that does not pass the name on.
    """
    return server_url(request) + _path_of(request)


def host_of(request: web.Request) -> str:
    """The URL of the server without the scheme, also for a request that no cache answers."""
    return server_url(request).partition("://")[2]


def server_url(request: web.Request) -> str:
    """The URL of the server without a trailing slash, as in `url_of`."""
    base_url = request.app[SERVING].settings.base_url
    host = request.headers.get(hdrs.HOST, "")
    if _HOST.fullmatch(host) is None or (base_url is not None and _LOOPBACK.fullmatch(host) is not None):
        return _WITHOUT_A_HOST if base_url is None else base_url.rstrip("/")
    forwarded = request.headers.get("X-Forwarded-Proto", "").strip().lower()
    scheme = forwarded if forwarded in _SCHEMES else request.scheme
    return f"{scheme}://{host.lower()}"


def _path_of(request: web.Request) -> str:
    return f"/{request[CACHE].name}" if "cache" in request.match_info else ""


def site_of(request: web.Request) -> str:
    """The URL of the request's cache without the scheme: a name for this cache."""
    return url_of(request).partition("://")[2]
