"""`POST /api/promote`: paths of another cache, published in this one with all that they refer to; no bytes move.

The permission is `push` on this cache, and `read` on the other.
"""

from typing import Final

import msgspec
from aiohttp import web

from harmonia_py.cache.access import Action
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.errors import FormatError, NotPermitted, PushRefused, naming
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.push.promoting import promote
from harmonia_py.push.pushes import Pushes
from harmonia_py.web.admission.limits import answer_in
from harmonia_py.web.api.capabilities import json_response
from harmonia_py.web.api.session_request import read_json
from harmonia_py.web.http import upload
from harmonia_py.web.state import CACHE, PRINCIPAL, SERVING, TRANSFERS, cache_of, pushes_of

_MAX_BODY: Final = 1024 * 1024
_MAX_ROOTS: Final = 1000
_RUN: Final = "promote"


class Promotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body.

    Attributes:
        source: the name of the cache that has the paths.
        paths: store paths, in full or by their base names.
    """

    source: str = msgspec.field(name="from")
    paths: list[str]


async def check(request: web.Request) -> None:
    """Refuse, before it comes, a body that is longer than a list of paths may be."""
    upload.announced_bytes(request, _MAX_BODY)


async def post(request: web.Request) -> web.StreamResponse:
    """Publish them; which were new, which have another NAR here, and how many were here already.

    What takes too long for one answer is going on when the client asks again.
    """
    target, principal = pushes_of(request), request[PRINCIPAL]
    wanted = await read_json(request, Promotion, _MAX_BODY)
    if not 0 < len(wanted.paths) <= _MAX_ROOTS:
        raise PushRefused(f"name 1 to {_MAX_ROOTS} paths")
    store_dir = cache_of(request).cache_info.store_dir
    roots = [_store_path(text, store_dir).hash_part for text in wanted.paths]
    source = await _source(request, CacheName.parse(wanted.source))
    session = await target.session(principal, _RUN)
    seconds = request.app[TRANSFERS].limits.request_timeout
    promoted = await promote(source, target, session, roots, goes_on=lambda: answer_in(seconds))
    return json_response(
        {
            "state": "promoted" if promoted.is_whole else "going on",
            "published": promoted.published,
            "present": promoted.present,
            "kept_first": promoted.first,
        }
    )


async def _source(request: web.Request, name: CacheName) -> Pushes:
    """The cache of this name, for a principal that may read it.

    Raises:
        NotPermitted: it may not; whether there is such a cache is not told.
        PushRefused: it is the cache that they are promoted to, or nothing is pushed to it.
    """
    serving, principal = request.app[SERVING], request[PRINCIPAL]
    found = await serving.caches.find(name)
    if found is None or not found.allows(principal, Action.READ):
        if principal.may(Action.READ, name):
            raise PushRefused(f"there is no cache {name}")
        raise NotPermitted(f"Forbidden: the {principal.name} does not allow to read the cache {name}")
    if found.name == request[CACHE].name:
        raise PushRefused(f"{name} is the cache that they are promoted to")
    pushes = serving.pushes_of(found)
    if pushes is None:
        raise PushRefused(f"nothing is pushed to the cache {name}, so it has nothing to promote")
    return pushes


def _store_path(text: str, store_dir: StoreDir) -> StorePath:
    with naming(f"paths: {text[:300]}", FormatError):
        return store_dir.parse_path(text) if text.startswith("/") else StorePath.parse(text)
