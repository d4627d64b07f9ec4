"""Kept files that are not ready, opened without the framework.

A kept NAR of a few hundred KiB takes the kernel fifty microseconds to send. Parsing the request, routing it, two
threads and a response made of it a millisecond: so a file that can be opened without waiting for the disk is opened
here, and ready from then on.
"""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import hdrs

from harmonia_py.cache.source import AT_ONCE, NotAtOnce
from harmonia_py.errors import HarmoniaError
from harmonia_py.runtime.page_cache import says_what_is_cached
from harmonia_py.web.fast.ready_answers import NarRequest
from harmonia_py.web.fast.ready_file import ReadyFile
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.nix.nar import headers_of
from harmonia_py.web.state import Serving

_log = logging.getLogger(__name__)

FindNar = Callable[[NarRequest], Awaitable[ReadyFile | bytes | None]]
"""Finds the file for a request, or that there is none, and gives the whole answer that says so.

None: the framework must answer, be it with an error. No error of the cache is raised here."""


def nar_finder(serving: Serving) -> FindNar:
    """A function that opens kept files of the caches of `serving`, and makes them ready."""

    async def find(request: NarRequest) -> ReadyFile | bytes | None:
        cache = request.cache
        try:
            download = await cache.cache.nar(request.url, AT_ONCE)
        except (NotAtOnce, HarmoniaError):
            return None
        except Exception:  # noqa: BLE001  # the client gets an answer, by the framework
            _log.exception("GET /%s: unforeseen", request.target)
            return None
        if download is None:
            return serving.answers.write(not_found())
        # A reload while the file was opened has brought other caches.
        file = download.file
        if file is None or not says_what_is_cached(file.fd, file.offset) or not serving.serves(cache):
            download.release()
            return None
        try:
            headers = headers_of(request.url, cache) | {hdrs.ETAG: f'"{download.etag}"', hdrs.ACCEPT_RANGES: "bytes"}
            return serving.answers.add_file(cache, request.target, headers, file, download)
        except BaseException:
            download.release()
            raise

    return find
