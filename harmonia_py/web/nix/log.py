"""`/log/<derivation>`."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.source import DocumentKind
from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.web.http.body import respond
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.state import cache_of

_HEADERS: Final[Mapping[str, str]] = {
    hdrs.CONTENT_TYPE: "text/plain; charset=utf-8",
    hdrs.CACHE_CONTROL: "max-age=60",
    # A build may write anything into its log, also a page that attacks its reader.
    hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
}


async def get(request: web.Request) -> web.StreamResponse:
    """The build log of a derivation, named by its base name or its hash part."""
    # Nix sends the name as it is: a question mark in it makes the rest of the name a query string.
    raw = request.match_info["derivation"]
    if request.query_string:
        raw = f"{raw}?{request.rel_url.raw_query_string}"
    download = await cache_of(request).document(DocumentKind.LOG, _parse(raw))
    if download is None:
        return not_found()
    return await respond(request, download, _HEADERS)


def _parse(text: str) -> StorePath | HashPart:
    try:
        return HashPart.parse(text)
    except FormatError:
        return StorePath.parse(text)
