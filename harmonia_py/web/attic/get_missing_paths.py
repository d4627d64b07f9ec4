"""`POST /_api/v1/get-missing-paths`: the paths, of many, that Attic's client has to send."""

import asyncio
from typing import Final

from aiohttp import web

from harmonia_py.cache.access import Action
from harmonia_py.errors import FormatError, PushTooLarge
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.sessions import MAX_ASKED
from harmonia_py.web.attic import bodies
from harmonia_py.web.attic.admission import check_known, find_cache, parse_name
from harmonia_py.web.attic.answers import bad_request, json_answer
from harmonia_py.web.state import PRINCIPAL, pushes_of

_MAX_BODY: Final = 4 * 1024 * 1024

RUN: Final = "attic"
"""The sessions of Attic's clients, which begin none of their own: one for each principal and cache."""


async def post(request: web.Request) -> web.StreamResponse:
    """The paths that are not here, which the client is then going to send. Those that are here stay for a day."""
    check_known(request)
    question = await bodies.read(request, bodies.Question, _MAX_BODY)
    cache = await find_cache(request, parse_name(question.cache), Action.PUSH)
    pushes = pushes_of(request, cache)
    if len(question.store_path_hashes) > MAX_ASKED:
        raise PushTooLarge(f"more than {MAX_ASKED} paths in one question")
    try:
        hash_parts = await asyncio.to_thread(_parse, question.store_path_hashes)
    except FormatError as error:
        raise bad_request(f"store_path_hashes: {error}") from None
    session = await pushes.session(request[PRINCIPAL], RUN)
    missing = (await pushes.sessions.missing(session, hash_parts, ())).missing
    await pushes.sessions.announce(session, missing)
    return json_answer({"missing_paths": list(missing)})


def _parse(texts: list[str]) -> list[HashPart]:
    return list(dict.fromkeys(map(HashPart.parse, texts)))
