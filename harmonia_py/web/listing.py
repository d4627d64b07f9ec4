"""`/<hash part>.ls`."""

from aiohttp import hdrs, web

from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.body import respond
from harmonia_py.web.errors import not_found
from harmonia_py.web.state import cache_of


async def get(request: web.Request) -> web.StreamResponse:
    """The listing of a store path's NAR, as JSON."""
    download = await cache_of(request).listing(HashPart.parse(request.match_info["hash_part"]))
    if download is None:
        return not_found()
    return await respond(
        request, download, {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "max-age=86400"}
    )
