"""Clients sent to where the bytes are: never where they would show what they know of this cache."""

from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from harmonia_py.cache.source import Download
from harmonia_py.errors import StorageError
from harmonia_py.web.admission.address import host_of
from harmonia_py.web.state import CACHE

# Conditions are on tags of ours, which are no other server's.
_CONDITIONS: Final = (hdrs.IF_MATCH, hdrs.IF_NONE_MATCH, hdrs.IF_RANGE)


async def redirection(request: web.Request, download: Download) -> web.Response | None:
    """The answer that leads elsewhere; None where the bytes are sent from here."""
    if download.redirect is None or request.method != hdrs.METH_GET:
        # A signed URL is good for GET alone, and the answer to HEAD is known here.
        return None
    if any(name in request.headers for name in _CONDITIONS):
        return None
    try:
        url = await download.redirect(request[CACHE].public)
    except StorageError:
        return None  # it may still be read from here
    if url is None or not is_elsewhere(request, url):
        return None
    # The next request is let in anew, and may find the file somewhere else.
    headers = {hdrs.LOCATION: url, hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(status=HTTPStatus.FOUND, headers=headers)


def is_elsewhere(request: web.Request, url: str) -> bool:
    """Whether the URL is on another host.

    libcurl, and with it Nix, sends what a netrc has for a host to every port of it, and S3 refuses a request that is
    signed and has a password as well.
    """
    try:
        return _host(url) != _host(f"//{host_of(request)}")
    except ValueError:  # a name that is no host
        return False


def _host(url: str) -> str:
    """The host without the dot of a name that is complete: with it, it is the same host."""
    return (urlsplit(url).hostname or "").rstrip(".")
