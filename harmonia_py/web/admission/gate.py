"""The gate, before anything is looked up or a body is read: a rate per client, and permissions.

A client that may not read a cache learns nothing of it: whether there is such a path, or such a cache, the answer is
the same, and so is the work for it. Permissions are those of the route, on the cache that its URL names.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from math import ceil
from typing import Final

from aiohttp import hdrs, web
from msgspec import Struct

from harmonia_py.cache.access import ANONYMOUS, Action, Principal
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.cache.caches import Caches, NamedCache
from harmonia_py.errors import AccessError, FormatError, NotAuthenticated, NotPermitted
from harmonia_py.web.admission.clients import client_of
from harmonia_py.web.admission.limits import answer_within
from harmonia_py.web.http.errors import (
    CANNOT_TAKE_IT_NOW,
    Handler,
    bearable,
    can_repeat_body,
    error_response,
    is_writing,
    not_found,
    status_of,
)
from harmonia_py.web.state import CACHE, CLIENTS, PRINCIPAL, SERVING, TRANSFERS, WAITS_WITH_BODY

_log = logging.getLogger(__name__)

_HEALTH: Final = "/health"
_WHERE_TOKENS_GO: Final = (
    "Unauthorized: give a token of this cache, as the password in the file that netrc-file names (see --netrc-file)"
)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

CheckBody = Callable[[web.Request], Awaitable[None]]
"""Decides by a request's header whether its body may come; otherwise raises the error that the client is told."""


class Terms(Struct, frozen=True):
    """The conditions on a request, checked before its handler runs.

    Attributes:
        action: what the principal must be allowed to do with the cache; None where nothing of it is told, or where
            the handler asks, because the body names the cache.
        check_body: decides whether the body may come, before the client is told to send it.
    """

    action: Action | None = Action.READ
    check_body: CheckBody | None = None


TERMS: Final[web.AppKey[Mapping[Handler, Terms]]] = web.AppKey("terms")
"""The terms of the handlers that do more than read; all others need the permission to read."""

_READING: Final = Terms()


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a client that asks too often, or may not do this; give the answer of every other one a time limit."""
    try:
        async with answer_within(request.app[TRANSFERS].limits.request_timeout) as deadline:
            refusal = await _admit(request)
            if refusal is not None:
                return refusal
            await _invite_body(request)
            return await handler(request)
    except TimeoutError:
        if not deadline.expired():
            raise
        _log.error("%s %s: no answer in time", request.method, request.rel_url.raw_path)
        message = CANNOT_TAKE_IT_NOW if is_writing(request) else None
        return bearable(request, error_response(HTTPStatus.SERVICE_UNAVAILABLE, message))


async def _invite_body(request: web.Request) -> None:
    """Tell a client that waits before it sends the body to send it: RFC 9110, section 10.1.1."""
    if WAITS_WITH_BODY in request and request.match_info.http_exception is None and request.version >= (1, 1):
        await request.writer.write(_CONTINUE)
        # "100 Continue" is no part of the answer.
        request.writer.output_size = 0


async def _admit(request: web.Request) -> web.Response | None:
    """None for a request that may go on, with its cache and principal noted; otherwise the answer to it."""
    serving = request.app[SERVING]
    if request.path != _HEALTH:
        refusal = await _wait_or_refuse(request)
        if refusal is not None:
            return refusal
    # After the wait: a token may have been revoked meanwhile.
    serving.forget_what_is_old()
    terms = request.app[TERMS].get(request.match_info.handler, _READING)
    try:
        principal = await serving.principals.find(request.headers.getall(hdrs.AUTHORIZATION, []))
        cache = await _cache(request, serving.caches, principal, terms.action)
    except AccessError as error:
        message = str(error) or (_WHERE_TOKENS_GO if is_writing(request) else None)
        return error_response(status_of(error), message)
    if cache is None:
        return not_found()
    request[CACHE], request[PRINCIPAL] = cache, principal
    if terms.check_body is not None:
        await terms.check_body(request)
    return None


async def _cache(
    request: web.Request, caches: Caches, principal: Principal, action: Action | None
) -> NamedCache | None:
    """The cache that `request` names; None when there is none, and its principal may know that.

    Raises:
        AccessError: the principal may not do `action` with it.
    """
    if action is None:
        return caches.default
    name = _name(request)
    cache = caches.default
    if name is not None and caches.has_others:
        found = await caches.find(name)
        if found is None:
            if not principal.may(action, name):
                raise _refusal(principal, action, name)
            return None
        cache = found
    if request.path != _HEALTH and not cache.allows(principal, action):
        raise _refusal(principal, action, cache.name)
    return cache if name == cache.name else None


def _name(request: web.Request) -> CacheName | None:
    """The cache in the URL of `request`; None for a name that no cache has."""
    text = request.match_info.get("cache")
    if text is None:
        return DEFAULT
    try:
        return CacheName.parse(text)
    except FormatError:
        return None


def _refusal(principal: Principal, action: Action, name: CacheName) -> AccessError:
    if principal is ANONYMOUS:
        return NotAuthenticated()
    if principal.fault is not None:
        return NotAuthenticated(f"Unauthorized: {principal.fault}")
    reason = "" if principal.lacks is None else f": {principal.lacks}"
    return NotPermitted(f"Forbidden: the {principal.name} does not allow to {action} the cache {name}{reason}")


async def _wait_or_refuse(request: web.Request) -> web.Response | None:
    """429 for a client that asks too often; a client whose second attempt would be broken is made to wait instead."""
    clients = request.app[CLIENTS]
    if clients.limiter is None:
        return None
    client = client_of(request, clients)
    wait = clients.limiter.take(client)
    while wait > 0:
        if not is_writing(request) or can_repeat_body(request):
            response = error_response(HTTPStatus.TOO_MANY_REQUESTS)
            response.headers[hdrs.RETRY_AFTER] = str(ceil(wait))
            return response
        await asyncio.sleep(wait)
        wait = clients.limiter.take(client)
    return None
