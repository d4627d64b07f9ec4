"""`/api/capabilities` and `/api/cache`: the first questions of a client, about the server and about a cache.

Clients of other releases ask as well. So fields are added and never change their meaning; a client ignores those that
it does not know, and does without those that are not there.
"""

import json
from datetime import UTC, datetime
from math import isinf
from typing import Any

import msgspec
from aiohttp import hdrs, web

from harmonia_py import __version__
from harmonia_py.cache.access import Principal
from harmonia_py.cache.caches import NamedCache
from harmonia_py.web.state import CACHE, PRINCIPAL, SERVING

PUSH_VERSION = 1
"""Of the requests below `/api/sessions`. A later number is for what a client of this one would misunderstand."""


async def get(request: web.Request) -> web.StreamResponse:
    """The protocols of this server, and the holder of the request's token, which may be for any cache."""
    principal, exchange = request[PRINCIPAL], request.app[SERVING].settings.exchange
    body: dict[str, Any] = {
        "server": "harmonia-py",
        "version": __version__,
        "api": {"push": [PUSH_VERSION]},
        "principal": _describe(principal),
    }
    if exchange is not None:
        body["oidc"] = {"audiences": exchange.audiences}
    return json_response(body)


async def get_cache(request: web.Request) -> web.StreamResponse:
    """The facts of a cache that a client needs to substitute from it."""
    return json_response(describe_cache(request))


def describe_cache(request: web.Request) -> dict[str, Any]:
    """The cache of a request, as JSON."""
    cache: NamedCache = request[CACHE]
    info = cache.cache.cache_info
    return {
        "name": cache.name,
        "public": cache.public,
        "store_dir": info.store_dir,
        "priority": info.priority,
        "public_keys": [str(key) for key in cache.keys_for_clients],
        "base_url": request.app[SERVING].settings.base_url,
    }


def json_response(body: Any) -> web.Response:
    """An answer that is right at this moment."""
    headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(body=msgspec.json.encode(body, enc_hook=str) + b"\n", headers=headers)


def json_line(fields: object, cache_control: str = "no-store") -> web.Response:
    """An answer that a person reads as well, in a terminal."""
    headers = {hdrs.CACHE_CONTROL: cache_control}
    return web.Response(text=json.dumps(fields) + "\n", content_type="application/json", headers=headers)


def _describe(principal: Principal) -> dict[str, Any]:
    expires = None if isinf(principal.expires) else datetime.fromtimestamp(principal.expires, UTC).isoformat()
    grants = [{"actions": sorted(grant.actions), "caches": grant.caches} for grant in principal.grants]
    return {"name": principal.name, "expires": expires, "grants": grants}
