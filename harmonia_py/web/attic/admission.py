"""The cache that a request of Attic's client is for, and the permission of its principal there.

The name may stand in a header or in the body, so the gate before the handlers has found the principal alone. What a
refusal tells is what Attic tells: a principal that may do nothing with a cache does not learn whether there is one.

Source: `auth_cache` in `server/src/access/http.rs` of Attic.
"""

from http import HTTPStatus
from typing import Final

from aiohttp import web

from harmonia_py.cache.access import Action, Principal
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.caches import NamedCache
from harmonia_py.errors import FormatError
from harmonia_py.web.attic.answers import Refusal, bad_request, no_such_cache
from harmonia_py.web.state import PRINCIPAL, SERVING

_FORBIDDEN: Final = "Access error: User does not have permission to complete this action."


def parse_name(text: str) -> CacheName:
    """The name of a cache.

    Raises:
        Refusal: it is none.
    """
    try:
        return CacheName.parse(text)
    except FormatError as error:
        raise bad_request(str(error)) from None


async def find_cache(request: web.Request, name: CacheName, action: Action) -> NamedCache:
    """The cache of this name, in which the principal may do `action`.

    Raises:
        Refusal: it may not, or there is none.
        CatalogError: it cannot be told.
    """
    serving, principal = request.app[SERVING], request[PRINCIPAL]
    cache = await serving.caches.find(name)
    allowed = principal.may(action, name) if cache is None else cache.allows(principal, action)
    if allowed:
        if cache is None:
            raise no_such_cache()
        return cache
    may_know = principal.may_anything(name) or (cache is not None and cache.allows(principal, Action.READ))
    if may_know and cache is None:
        raise no_such_cache()
    raise refusal_of(principal, may_know=may_know)


def check_known(request: web.Request) -> None:
    """Refuse a client without a token that is good for anything, before its question is read, which names the cache.

    Raises:
        Refusal: it may do nothing anywhere.
    """
    principal = request[PRINCIPAL]
    if not principal.grants:
        raise refusal_of(principal, may_know=False)


def check_may_push(request: web.Request) -> None:
    """Refuse a client that may push to no cache, before a mebibyte is read for it, in which the cache is named.

    Raises:
        Refusal: it may push to none.
    """
    check_known(request)
    principal = request[PRINCIPAL]
    if not any(grant.actions & {Action.PUSH, Action.ADMIN} for grant in principal.grants):
        # 403, and not 401: the client may know that its token is good for something else.
        raise refusal_of(principal, may_know=True)


def refusal_of(principal: Principal, *, may_know: bool) -> Refusal:
    """The refusal of a principal that may not do something: 403 if it may know of the cache, else 401."""
    if principal.fault is not None:
        return Refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized", f"Unauthorized: {principal.fault}.")
    if may_know:
        return Refusal(HTTPStatus.FORBIDDEN, "AccessError", _FORBIDDEN)
    return Refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized.")
