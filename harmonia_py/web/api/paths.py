"""`/api/paths/<hash part>`: why a path is kept; and DELETE: it goes at once, unless something references it."""

from http import HTTPStatus

from aiohttp import hdrs, web

from harmonia_py.catalog.deletion import delete_closure
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.api.capabilities import json_line
from harmonia_py.web.http.errors import error_response, not_found
from harmonia_py.web.standing import standing_of
from harmonia_py.web.state import PRINCIPAL, administration_of


async def delete(request: web.Request) -> web.StreamResponse:
    """Delete a path, with `?closure` also what it alone kept; 409 says what keeps it. The permission is `delete`."""
    hash_part = HashPart.parse(request.match_info["hash_part"])
    administration = administration_of(request)
    if administration is None:
        return not_found()
    cache, deletions, by = administration.row.id, administration.deletions, request[PRINCIPAL].name
    despite_pushes, now = "despite-pushes" in request.query, administration.now()
    if "closure" in request.query:
        gone = await delete_closure(deletions, cache, hash_part, deleted_by=by, despite_pushes=despite_pushes, now=now)
    else:
        gone = await deletions.delete(cache, [hash_part], deleted_by=by, despite_pushes=despite_pushes, now=now)
    for obstacle in gone.obstacles:
        return error_response(HTTPStatus.CONFLICT, obstacle.words("?despite-pushes"))
    if not gone.paths:
        return not_found()
    text = "".join(f"{path}\n" for path in gone.paths)
    return web.Response(text=text, headers={hdrs.CACHE_CONTROL: "no-store"})


async def get(request: web.Request) -> web.StreamResponse:
    """Say why a path that was pushed is kept, and until when; 404 for any other. This is no use of the path."""
    standing = await standing_of(request, HashPart.parse(request.match_info["hash_part"]))
    return not_found() if standing is None else json_line(standing.to_json())
