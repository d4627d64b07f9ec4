"""`/nar/…`: NARs, in every shape of URL that a narinfo of ours ever named."""

from typing import Final

from aiohttp import hdrs, web

from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.web.body import IMMUTABLE, Headers, respond
from harmonia_py.web.errors import not_found
from harmonia_py.web.state import cache_of

CONTENT_TYPES: Final = {
    "none": "application/x-nix-archive",
    "zstd": "application/zstd",
    "xz": "application/x-xz",
    "bzip2": "application/x-bzip2",
    "gzip": "application/gzip",
}
DEFAULT_CONTENT_TYPE: Final = "application/x-nix-nar"


async def get(request: web.Request) -> web.StreamResponse:
    """A NAR or a range of it; 404 when the store has no such path, or one with another NarHash."""
    url = NarUrl.parse(request.match_info["file_name"], request.query.get("hash"))
    download = await cache_of(request).nar(url)
    if download is None:
        return not_found()
    headers: Headers = {
        hdrs.CONTENT_TYPE: CONTENT_TYPES.get(url.compression, DEFAULT_CONTENT_TYPE),
        hdrs.CACHE_CONTROL: IMMUTABLE,
    }
    return await respond(request, download, headers)
