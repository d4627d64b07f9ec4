"""Who is let in, before anything is looked up: tokens, and requests per client address; and an end to every wait.

Who has no token learns nothing: every URL but `/health` is answered alike, whether there is anything or not.
"""

import logging
from http import HTTPStatus
from math import ceil
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.access import Tokens
from harmonia_py.web.authorization import opens
from harmonia_py.web.clients import client_of
from harmonia_py.web.errors import Handler, error_response
from harmonia_py.web.limits import answer_within
from harmonia_py.web.state import CLIENTS, SERVING, TRANSFERS

_log = logging.getLogger(__name__)

_CHALLENGE: Final = 'Basic realm="Nix binary cache", charset="UTF-8"'
_HEALTH: Final = "/health"


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn away who asks too often, and who may not read; let nobody wait for ever."""
    if request.path != _HEALTH:
        clients = request.app[CLIENTS]
        wait = clients.limiter.take(client_of(request, clients)) if clients.limiter is not None else 0.0
        if wait > 0:
            response = error_response(HTTPStatus.TOO_MANY_REQUESTS)
            response.headers[hdrs.RETRY_AFTER] = str(ceil(wait))
            return response
    tokens = request.app[SERVING].rules.tokens
    if tokens is not None and not _is_let_in(request, tokens):
        response = error_response(HTTPStatus.UNAUTHORIZED)
        response.headers[hdrs.WWW_AUTHENTICATE] = _CHALLENGE
        return response
    try:
        async with answer_within(request.app[TRANSFERS].limits.request_timeout) as deadline:
            return await handler(request)
    except TimeoutError:
        if not deadline.expired():
            raise
        _log.error("%s %s: no answer in time", request.method, request.rel_url.raw_path)
        return error_response(HTTPStatus.SERVICE_UNAVAILABLE)


def _is_let_in(request: web.Request, tokens: Tokens) -> bool:
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    # A wrong token is wrong everywhere, so that whoever checks one learns it from any URL.
    if not given:
        return request.path == _HEALTH
    return len(given) == 1 and opens(tokens, given[0])
