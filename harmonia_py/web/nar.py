"""`/nar/…`: NARs, in every shape of URL that a narinfo of ours ever named."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.web.body import IMMUTABLE, Headers, respond
from harmonia_py.web.errors import not_found
from harmonia_py.web.state import SERVING, cache_of

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
    download = await cache_of(request).nar(url)
    if download is None:
        return not_found()
    headers: Headers = {
        hdrs.CONTENT_TYPE: CONTENT_TYPES.get(url.compression, DEFAULT_CONTENT_TYPE),
        hdrs.CACHE_CONTROL: IMMUTABLE,
    }
    response = await respond(request, download, headers)
    as_it_is = download.file is not None and hdrs.CONTENT_ENCODING not in response.headers
    if as_it_is and response.status == HTTPStatus.OK and request.method == hdrs.METH_GET:
        await _keep_ready(request, url, response.headers)
    return response


async def _keep_ready(request: web.Request, url: NarUrl, sent: Mapping[str, str]) -> None:
    """Let the next one who asks for this file have it without the framework."""
    serving = request.app[SERVING]
    cache = serving.cache
    try:
        again = await cache.nar(url)
    except HarmoniaError:
        return  # the answer is on its way: an error now would be a second one
    if again is None:
        return
    if again.file is None or cache is not serving.cache:
        again.release()
        return
    headers = {str(name): sent[name] for name in _OF_THE_FILE if name in sent}
    headers |= {str(hdrs.ETAG): f'"{again.etag}"', str(hdrs.ACCEPT_RANGES): "bytes"}
    serving.answers.add_file(request.raw_path[1:], headers, again.file, again)
