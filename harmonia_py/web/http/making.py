"""Turns of clients at answers that take a processor long to make: listings, pages, results of searches."""

from functools import wraps

from aiohttp import web

from harmonia_py.runtime.turns import Turn
from harmonia_py.web.admission.clients import share_of
from harmonia_py.web.http.errors import Handler
from harmonia_py.web.state import CLIENTS, TRANSFERS


def turn_of(request: web.Request) -> Turn:
    """The turn of the request's client at making an answer."""
    return request.app[TRANSFERS].making.take(share_of(request, request.app[CLIENTS]))


def at_turn(handler: Handler) -> Handler:
    """`handler` at the turn of the client, which ends before its answer is sent: it must be in memory."""

    @wraps(handler)
    async def get(request: web.Request) -> web.StreamResponse:
        async with turn_of(request):
            return await handler(request)

    return get
