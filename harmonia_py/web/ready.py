"""`/ready`: whether this cache can do its work, for load balancers and monitors."""

import logging
from http import HTTPStatus

from aiohttp import hdrs, web

from harmonia_py.web.errors import RETRY_AFTER_SECONDS
from harmonia_py.web.state import cache_of

_log = logging.getLogger(__name__)


async def get(request: web.Request) -> web.StreamResponse:
    """200, or 503 and the names of the checks that fail, one a line; why is in the log."""
    failures = await cache_of(request).failures()
    headers = {str(hdrs.CACHE_CONTROL): "no-store"}
    if not failures:
        return web.Response(text="OK\n", headers=headers)
    for failure in failures:
        _log.warning("not ready: %s: %s", failure.name, failure.reason)
    headers[hdrs.RETRY_AFTER] = str(RETRY_AFTER_SECONDS)
    text = "".join(f"{failure.name}\n" for failure in failures)
    return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=text, headers=headers)
