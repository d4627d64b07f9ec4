"""The web application, and the server that speaks HTTP on sockets that listen already."""

import asyncio
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.metrics.board import Metrics
from harmonia_py.runtime.tasks import end_task
from harmonia_py.web.admission import gate
from harmonia_py.web.admission.accepting import Acceptor
from harmonia_py.web.admission.access_log import AccessLog
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.admission.limits import Limits
from harmonia_py.web.attic import answers
from harmonia_py.web.fast.nar import nar_finder
from harmonia_py.web.fast.narinfo import narinfo_finder
from harmonia_py.web.fast.protocol import FastProtocol
from harmonia_py.web.fast.ready_answers import SERVER
from harmonia_py.web.http import errors
from harmonia_py.web.http.transfer import Transfers
from harmonia_py.web.http_metrics import HttpMetrics
from harmonia_py.web.pages import error
from harmonia_py.web.pages.path import TREES
from harmonia_py.web.routes import attic_routes, push_routes, routes, routes_of_named_caches, terms_of, token_routes
from harmonia_py.web.state import BOARD, CLIENTS, SERVING, TRANSFERS, Serving

# Requests that are cut at the end of the time for shutting down have so long to clean up.
_CUT_SECONDS: Final = 0.5
# Between two looks whether the last connection has ended.
_LOOK_SECONDS: Final = 0.02
# Between two looks for clients that are too slow, at most: a thousand connections take half a millisecond.
_MAX_LOOK_SECONDS: Final = 2.0


def make_application() -> web.Application:
    """The web application, without the state that `serve` gives it. What is made before a fork is shared by workers."""
    application = web.Application(
        middlewares=[error.middleware, answers.middleware, errors.middleware, gate.middleware]
    )
    table = [*routes(), *push_routes(), *token_routes(), *attic_routes(), *routes_of_named_caches()]
    application[gate.TERMS] = terms_of(table)
    for route in table:
        route.add_to(application.router)
    application.on_response_prepare.append(_sign)
    application.pre_freeze()
    return application


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = SERVER


@asynccontextmanager
async def serve(
    serving: Serving,
    sockets: Sequence[socket.socket],
    *,
    application: web.Application | None = None,
    tls: ssl.SSLContext | None = None,
    access_log: AccessLog | None,
    metrics: Metrics | None = None,
    limits: Limits | None = None,
    clients: Clients | None = None,
    shutdown_timeout: float,
) -> AsyncIterator[None]:
    """Serve on `sockets` for as long as the context lasts, with an `application` that has not served yet.

    Leaving it stops accepting, closes idle connections, and gives requests that run `shutdown_timeout` seconds. Without
    `metrics` this process counts for itself alone.
    """
    metrics = metrics or Metrics.alone()
    limits = limits or Limits()
    clients = clients or Clients()
    transfers = Transfers(limits, HttpMetrics(metrics))
    application = application or make_application()
    application[SERVING] = serving
    application[TRANSFERS] = transfers
    application[CLIENTS] = clients
    application[BOARD] = metrics.board
    application[TREES] = OrderedDict()
    # The framework would wait twice for this long; `_finish` waits instead.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CUT_SECONDS)
    await runner.setup()
    manager = runner.server
    assert manager is not None
    find_narinfo, find_nar = narinfo_finder(serving, transfers), nar_finder(serving)

    def protocol() -> FastProtocol:
        return FastProtocol(
            manager,
            answers=serving.answers,
            transfers=transfers,
            find_narinfo=find_narinfo,
            find_nar=find_nar,
            acceptor=acceptor,
            clients=clients,
            access_log=access_log,
        )

    acceptor = Acceptor(sockets, limits=limits, share_of=clients.counted, tls=tls, load=metrics.load)
    acceptor.start(protocol)
    looking = asyncio.create_task(_look_after(manager, min(limits.header_timeout, limits.stall_timeout)))
    try:
        yield
    finally:
        await acceptor.stop()
        transfers.making.close()
        await _finish(manager, shutdown_timeout)
        await end_task(looking)
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
            if isinstance(connection, FastProtocol):
                connection.look(now)


async def _finish(manager: web.Server, seconds: float) -> None:
    """Close idle connections now, and wait for the others to end with the response that they are at."""
    manager.pre_shutdown()
    deadline = time.monotonic() + seconds
    while any(_is_answering(connection) for connection in manager.connections) and time.monotonic() < deadline:  # noqa: ASYNC110  # the framework offers no event
        await asyncio.sleep(_LOOK_SECONDS)


def _is_answering(connection: web.RequestHandler) -> bool:
    return isinstance(connection, FastProtocol) and connection.is_answering
