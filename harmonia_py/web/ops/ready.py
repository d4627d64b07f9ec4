"""`/ready`: whether this server can do its work, for load balancers and monitors."""

import logging
from http import HTTPStatus

from aiohttp import hdrs, web

from harmonia_py.cache.checks import failures
from harmonia_py.web.http.errors import RETRY_AFTER_SECONDS
from harmonia_py.web.state import SERVING

_log = logging.getLogger(__name__)


async def get(request: web.Request) -> web.StreamResponse:
    """200, or 503 and the names of the checks that fail, one a line; the log has the reasons."""
    failed = await failures(request.app[SERVING].settings.checks)
    headers = {str(hdrs.CACHE_CONTROL): "no-store"}
    if not failed:
        return web.Response(text="OK\n", headers=headers)
    for failure in failed:
        _log.warning("not ready: %s: %s", failure.name, failure.reason)
    headers[hdrs.RETRY_AFTER] = str(RETRY_AFTER_SECONDS)
    text = "".join(f"{failure.name}\n" for failure in failed)
    return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=text, headers=headers)
