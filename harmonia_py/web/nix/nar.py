"""`/nar/…`: NARs, under every form of URL that narinfos of any release named."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.caches import NamedCache
from harmonia_py.cache.source import Asker
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.runtime.page_cache import says_what_is_cached
from harmonia_py.web.admission.clients import share_of
from harmonia_py.web.http.body import IMMUTABLE, respond
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.http.pausing import while_connected
from harmonia_py.web.state import CACHE, CLIENTS, SERVING, cache_of

CONTENT_TYPES: Final = {
    "none": "application/x-nix-archive",
    "zstd": "application/zstd",
    "xz": "application/x-xz",
    "bzip2": "application/x-bzip2",
    "gzip": "application/gzip",
}
_OF_THE_FILE: Final = (hdrs.CONTENT_TYPE, hdrs.CACHE_CONTROL, hdrs.VARY)
DEFAULT_CONTENT_TYPE: Final = "application/x-nix-nar"


async def get(request: web.Request) -> web.StreamResponse:
    """A NAR or a range of it; 404 when the store has no such path, or one with another NarHash."""
    url = NarUrl.parse(request.match_info["file_name"], request.query.get("hash"))
    # A HEAD makes and fetches nothing: it is answered from what is known already.
    asker = Asker(share_of(request, request.app[CLIENTS]), begins=request.method == hdrs.METH_GET)
    download = await while_connected(request, cache_of(request).nar(url, asker))
    if download is None:
        return not_found()
    headers = headers_of(url, request[CACHE])
    # Sending it releases the file.
    file = download.file
    can_be_ready = file is not None and says_what_is_cached(file.fd, file.offset)
    response = await respond(request, download, headers)
    as_it_is = hdrs.CONTENT_ENCODING not in response.headers
    if can_be_ready and as_it_is and response.status == HTTPStatus.OK and request.method == hdrs.METH_GET:
        await _keep_ready(request, url, response.headers)
    return response


def headers_of(url: NarUrl, cache: NamedCache) -> dict[str, str]:
    """The headers of the NAR of a cache, whichever part of it is sent."""
    return {
        hdrs.CONTENT_TYPE: CONTENT_TYPES.get(url.compression, DEFAULT_CONTENT_TYPE),
        # `public` lets a proxy give the answer to a request with a token to clients without one: RFC 9111, section 3.5.
        hdrs.CACHE_CONTROL: f"{'public' if cache.public else 'private'}, {IMMUTABLE}",
    }


async def _keep_ready(request: web.Request, url: NarUrl, sent: Mapping[str, str]) -> None:
    """Make the file ready, so that the next request for it is answered without the framework."""
    serving, cache = request.app[SERVING], request[CACHE]
    try:
        again = await cache.cache.nar(url, Asker(begins=False))
    except HarmoniaError:
        return  # the answer is on its way: an error now would be a second one
    if again is None:
        return
    if again.file is None or not serving.serves(cache):
        again.release()
        return
    headers = {str(name): sent[name] for name in _OF_THE_FILE if name in sent}
    headers |= {str(hdrs.ETAG): f'"{again.etag}"', str(hdrs.ACCEPT_RANGES): "bytes"}
    serving.answers.add_file(cache, request.raw_path[1:], headers, again.file, again)
