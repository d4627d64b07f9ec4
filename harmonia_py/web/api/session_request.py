"""The common parts of requests below `/api/sessions`: a session, a cache that takes pushes, a body in JSON."""

import asyncio
from typing import Final, TypeVar

from aiohttp import web

from harmonia_py import json_text
from harmonia_py.errors import FormatError, naming
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.receiving import PushSession
from harmonia_py.web.admission.gate import CheckBody
from harmonia_py.web.http import upload
from harmonia_py.web.state import PRINCIPAL, pushes_of

T = TypeVar("T")

_MAX_DIGITS: Final = 18


async def push_of(request: web.Request) -> tuple[Pushes, PushSession]:
    """The pushes to this cache, and the session that the URL names, to which the request is a sign of life.

    Raises:
        PushRefused: nothing can be pushed to the cache.
        SessionEnded: it has, or it is not this client's.
    """
    pushes = pushes_of(request)
    return pushes, await pushes.sessions.resume(request[PRINCIPAL], request.match_info["session"])


def no_longer_than(most: int) -> CheckBody:
    """A check by the header that a body has at most so many bytes, for a cache that takes pushes."""

    async def check(request: web.Request) -> None:
        pushes_of(request)
        upload.announced_bytes(request, most)

    return check


async def read_json(request: web.Request, kind: type[T], most: int) -> T:
    """The body as a value of this kind.

    Raises:
        FormatError: it is something else.
        PushTooLarge: it has more than `most` bytes.
    """
    data = await upload.read(request, most)
    with naming("the body is not as it should be", FormatError):
        return await asyncio.to_thread(json_text.decode, data, kind)


def number_in(request: web.Request, name: str, otherwise: str) -> int:
    """A number of the query.

    Raises:
        FormatError: there is none; the message is `otherwise`.
    """
    text = request.query.get(name, "")
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise FormatError(otherwise)
    return int(text)
