"""`/<hash part>.ls`."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.source import DocumentKind
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.http.body import respond
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.state import cache_of

_HEADERS: Final[Mapping[str, str]] = {
    hdrs.CONTENT_TYPE: "application/json",
    hdrs.CACHE_CONTROL: "max-age=86400",
    # A listing has names of files in it, which the author of a package chose.
    hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
}


async def get(request: web.Request) -> web.StreamResponse:
    """The listing of a store path's NAR, as JSON."""
    hash_part = HashPart.parse(request.match_info["hash_part"])
    download = await cache_of(request).document(DocumentKind.LISTING, hash_part)
    if download is None:
        return not_found()
    # Not coded: nix-index asks for codings that it cannot decode.
    return await respond(request, download, _HEADERS, coded=False)
