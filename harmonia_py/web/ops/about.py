"""The server's own facts: `/nix-cache-info`, `/health`, `/version`. None of these handlers waits for anything."""

from aiohttp import hdrs, web

from harmonia_py import __version__
from harmonia_py.nix.hashes import Hash
from harmonia_py.web.http.body import Headers, respond_bytes
from harmonia_py.web.state import cache_of


async def get_cache_info(request: web.Request) -> web.StreamResponse:
    """`nix-cache-info`, from the configuration alone."""
    data = cache_of(request).cache_info.format()
    headers: Headers = {hdrs.CONTENT_TYPE: "text/x-nix-cache-info", hdrs.CACHE_CONTROL: "max-age=3600"}
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers)


async def get_health(_request: web.Request) -> web.StreamResponse:
    """200: the process answers."""
    return web.Response(text="OK\n", headers={hdrs.CACHE_CONTROL: "no-store"})


async def get_version(_request: web.Request) -> web.StreamResponse:
    """The name and version of this program."""
    return web.Response(text=f"harmonia-py {__version__}\n", headers={hdrs.CACHE_CONTROL: "no-store"})
