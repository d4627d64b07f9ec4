"""`/metrics`: the metrics of all workers together, for Prometheus."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.access import Action
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics.cache_labels import names_in, without
from harmonia_py.metrics.exposition import CONTENT_TYPE, format_metrics
from harmonia_py.metrics.totals import read_figures
from harmonia_py.web.http.body import Headers, respond_bytes
from harmonia_py.web.http_metrics import requests_from_the_start
from harmonia_py.web.state import BOARD, PRINCIPAL, SERVING, TRANSFERS

_log = logging.getLogger(__name__)

# The metrics are also wanted while the catalog stands still; without it the caches that are public are not known.
_CATALOG_SECONDS: Final = 1.0


async def get(request: web.Request) -> web.StreamResponse:
    """All metrics as text, without those of private caches that the client may not read.

    Each worker adds up those of all workers, so any of them can answer.
    """
    board, in_thread = request.app[BOARD], request.app[TRANSFERS].threads.run
    # In threads: it reads a few files of the kernel and formats a thousand lines.
    figures = await in_thread(lambda: {**requests_from_the_start(), **read_figures(board)})
    hidden = await _hidden(request, names_in(figures))
    text = await in_thread(lambda: format_metrics(without(figures, hidden)))
    headers: Headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"}
    # Coded, the text is much shorter, because names repeat; Prometheus asks for gzip.
    return await respond_bytes(request, text.encode(), etag=None, headers=headers)


async def _hidden(request: web.Request, names: Iterable[str]) -> set[str]:
    """The caches of `names` of which the client must not learn that they exist."""
    caches, principal = request.app[SERVING].caches, request[PRINCIPAL]
    hidden = {name for name in map(CacheName, names) if not principal.may(Action.READ, name)} - {caches.default.name}
    try:
        async with asyncio.timeout(_CATALOG_SECONDS):
            for name in sorted(hidden):
                cache = await caches.find(name)
                if cache is not None and cache.allows(principal, Action.READ):
                    hidden.discard(name)
    except (HarmoniaError, TimeoutError) as error:
        _log.warning("the metrics of public caches are left out: %s", error or "the catalog does not answer")
    return set(hidden)
