"""The web application, and the server that speaks HTTP on sockets that listen already."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.metrics.board import Board, Metrics
from harmonia_py.web import errors, gate
from harmonia_py.web.accepting import Acceptor
from harmonia_py.web.access_log import AccessLog
from harmonia_py.web.clients import Clients
from harmonia_py.web.figures import HttpFigures
from harmonia_py.web.hot import HotProtocol
from harmonia_py.web.hot_answers import SERVER
from harmonia_py.web.lane import narinfo_lane
from harmonia_py.web.limits import Limits
from harmonia_py.web.routes import routes
from harmonia_py.web.state import BOARD, CLIENTS, SERVING, TRANSFERS, Serving
from harmonia_py.web.transfer import Transfers

# What a request gets that was cut at the end of the time for shutting down.
_CUT_SECONDS: Final = 0.5
# How often is looked whether the last connection has ended.
_LOOK_SECONDS: Final = 0.02
# How often is looked whether a client is too slow: a thousand connections take half a millisecond.
_MAX_LOOK_SECONDS: Final = 2.0


def make_application(serving: Serving, transfers: Transfers, clients: Clients, board: Board) -> web.Application:
    """The HTTP face of `serving`."""
    application = web.Application(middlewares=[errors.middleware, gate.middleware])
    application[SERVING] = serving
    application[TRANSFERS] = transfers
    application[CLIENTS] = clients
    application[BOARD] = board
    application.add_routes(routes())
    application.on_response_prepare.append(_sign)
    return application


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = SERVER


@asynccontextmanager
async def serve(
    serving: Serving,
    sockets: Sequence[socket.socket],
    *,
    tls: ssl.SSLContext | None = None,
    access_log: AccessLog | None,
    metrics: Metrics | None = None,
    limits: Limits | None = None,
    clients: Clients | None = None,
    shutdown_timeout: float,
) -> AsyncIterator[None]:
    """Serve on `sockets` for as long as the context lasts.

    Leaving it stops accepting, closes idle connections, and gives requests that run `shutdown_timeout` seconds. Without
    `metrics` this process counts for itself alone.
    """
    metrics = metrics or Metrics.alone()
    limits = limits or Limits()
    clients = clients or Clients()
    figures = HttpFigures(metrics)
    transfers = Transfers(limits, figures)
    # The framework waits twice for this long; ours is the wait that counts.
    runner = web.AppRunner(
        make_application(serving, transfers, clients, metrics.board), access_log=None, shutdown_timeout=_CUT_SECONDS
    )
    await runner.setup()
    manager = runner.server
    assert manager is not None
    loop = asyncio.get_running_loop()
    lane = narinfo_lane(serving, transfers)

    def protocol() -> HotProtocol:
        return HotProtocol(
            manager,
            loop=loop,
            answers=serving.answers,
            transfers=transfers,
            lane=lane,
            acceptor=acceptor,
            clients=clients,
            access_log=access_log,
            figures=figures,
        )

    acceptor = Acceptor(
        sockets, max_connections=limits.max_connections, tls=tls, handshake_timeout=limits.header_timeout
    )
    acceptor.start(protocol)
    looking = asyncio.create_task(_look_after(manager, min(limits.header_timeout, limits.stall_timeout)))
    try:
        yield
    finally:
        await acceptor.stop()
        await _finish(manager, shutdown_timeout)
        looking.cancel()
        await asyncio.wait([looking])
        await runner.cleanup()
        transfers.close()
        serving.answers.clear()
        if access_log is not None:
            access_log.flush()


async def _look_after(manager: web.Server, shortest: float) -> None:
    """Close connections that take too long, at the latest a quarter of the `shortest` time limit too late."""
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(min(shortest / 4, _MAX_LOOK_SECONDS))
        now = clock()
        for connection in manager.connections:
            if isinstance(connection, HotProtocol):
                connection.look(now)


async def _finish(manager: web.Server, seconds: float) -> None:
    """Close idle connections now, and wait for the others to end with the response that they are at."""
    manager.pre_shutdown()
    deadline = time.monotonic() + seconds
    while any(_is_answering(connection) for connection in manager.connections) and time.monotonic() < deadline:  # noqa: ASYNC110  # the framework offers no event
        await asyncio.sleep(_LOOK_SECONDS)


def _is_answering(connection: web.RequestHandler) -> bool:
    return isinstance(connection, HotProtocol) and connection.is_answering
