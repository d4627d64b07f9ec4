"""Answers that cost much processor time (listings, pages, searches): clients take turns at having one made."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import wraps

from aiohttp import web

from harmonia_py.web.admission.clients import share_of
from harmonia_py.web.http.errors import Handler
from harmonia_py.web.http.pausing import while_connected
from harmonia_py.web.state import CLIENTS, TRANSFERS


@asynccontextmanager
async def turn_of(request: web.Request) -> AsyncIterator[None]:
    """The turn of the request's client at making an answer.

    Raises:
        ClientGone: the client left before it came.
        Overloaded: the server is stopping.
    """
    turn = request.app[TRANSFERS].making.take(share_of(request, request.app[CLIENTS]))
    try:
        if turn.is_waiting:
            await while_connected(request, turn.granted())
        yield
    finally:
        turn.leave()


def at_turn(handler: Handler) -> Handler:
    """`handler` at the turn of the client, which ends before its answer is sent: it must be in memory."""

    @wraps(handler)
    async def get(request: web.Request) -> web.StreamResponse:
        async with turn_of(request):
            return await handler(request)

    return get
