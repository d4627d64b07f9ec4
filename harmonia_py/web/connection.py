"""A connection as all of ours are: with our access log, figures and time limits around the framework's protocol.

It uses attributes of aiohttp's `RequestHandler` that its documentation does not promise: `_waiter`, `_paused`,
`_request_count`, `_logging_enabled`, `_handle_request`, `_drain_helper`, and `_version` of its `BaseRequest`.
"""

import asyncio
import logging
import time
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from harmonia_py.web.accepting import Acceptor
from harmonia_py.web.access_log import AccessLog, Entry
from harmonia_py.web.clients import GONE, Clients, client_of, peer_of
from harmonia_py.web.errors import error_response, middleware
from harmonia_py.web.figures import DOWNLOADS, HttpFigures, Sending, kind_of, path_of
from harmonia_py.web.hot_answers import SERVER
from harmonia_py.web.transfer import Cut, DownloadResponse, Transfers

_log = logging.getLogger(__name__)

_SPOKEN: Final = frozenset({HttpVersion10, HttpVersion11})
_WITH_CONTENT: Final = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT})

# Whoever sends headers byte by byte to keep connections busy learns as much as whoever is only slow.
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
    b"Content-Length: 16\r\nConnection: close\r\nServer: " + SERVER.encode() + b"\r\n\r\nRequest Timeout\n"
)


class Connection(web.RequestHandler):
    """aiohttp's protocol, with our access log behind it, and an end for those that are too slow."""

    __slots__ = (
        "_acceptor",
        "_access_log",
        "_began",
        "_client",
        "_clients",
        "_figures",
        "_header_since",
        "_transfers",
        "_untaken",
        "_untaken_since",
        "_wire",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        transfers: Transfers,
        acceptor: Acceptor,
        clients: Clients,
        access_log: AccessLog | None,
        figures: HttpFigures,
    ) -> None:
        keepalive = transfers.limits.keepalive_timeout
        super().__init__(manager, loop=loop, access_log=None, keepalive_timeout=keepalive)  # type: ignore[arg-type]  # None is documented
        # The framework tells the end of an answer only to those who log; we count as well.
        self._logging_enabled = True
        self._access_log = access_log
        self._transfers = transfers
        self._acceptor = acceptor
        self._clients = clients
        self._figures = figures
        # By a finer clock than uvloop's, which counts whole milliseconds.
        self._began = 0.0
        self._client = "unix"
        # The transport, also when the framework has let go of it.
        self._wire: asyncio.Transport | None = None
        # Since when a header has begun and not ended.
        self._header_since: float | None = None
        # What the client has not taken of answers, and since when it takes nothing.
        self._untaken = 0
        self._untaken_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the client's address; the framework does the rest."""
        # Those of uvloop are none by their class.
        self._wire = cast("asyncio.Transport", transport)
        self._client = peer_of(transport)
        self._acceptor.opened()
        self._figures.connections.add()
        super().connection_made(transport)
        if self._client == GONE:
            # There is nobody to answer, and nobody whose requests could be counted.
            self._wire.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Make room for another."""
        self._figures.connections.add(-1)
        self._wire = None
        super().connection_lost(exc)
        self._acceptor.lost()

    def data_received(self, data: bytes) -> None:
        """Hand `data` to the framework, and note whether it is the beginning of a header."""
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self._header_since = None
        elif self._header_since is None and self._waiter is not None:
            self._header_since = self._loop.time()

    async def _drain_helper(self) -> None:
        """Wait until the client has read the answers before; one that stands still is cut."""
        try:
            async with asyncio.timeout(self._transfers.limits.stall_timeout if self._paused else None):
                await super()._drain_helper()
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionResetError from None

    def look(self, now: float) -> None:
        """Close the connection of a client that does not finish a header, or takes nothing of an answer."""
        limits, wire = self._transfers.limits, self._wire
        if wire is None:
            return
        if self._header_since is not None and now - self._header_since > limits.header_timeout:
            self._header_since = None
            wire.write(_TOO_SLOW)
            self._log_line(HTTPStatus.REQUEST_TIMEOUT)
            self.force_close()
        untaken = wire.get_write_buffer_size()
        if untaken == 0 or untaken < self._untaken or self._untaken == 0:
            self._untaken_since = now
        elif now - self._untaken_since > limits.stall_timeout:
            wire.abort()
        self._untaken = untaken

    def _log_line(self, status: HTTPStatus) -> None:
        """Log what never was a request."""
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "-", "-", status, len(_TOO_SLOW), 0.0))

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002  # its clock is too coarse
        """What the framework calls when an answer has ended."""
        self._log(request, response.status, response.sending if isinstance(response, DownloadResponse) else None)

    async def _handle_request(self, request: web.BaseRequest, start_time: float | None, handler: Any) -> Any:
        """As the framework does, but an answer that was cut is logged as well."""
        self._began = time.perf_counter()
        # Not `version`, which keeps what it said first.
        if request._version not in _SPOKEN:  # noqa: SLF001
            # The framework would say that it speaks what the client says that it does: 0.9, 2.0.
            request._version = HttpVersion10  # noqa: SLF001
        if hdrs.EXPECT in request.headers:
            # What it does not expect itself the framework answers before anything of ours is asked, and in its words.
            handler = partial(middleware, handler=handler)
        try:
            return await super()._handle_request(request, start_time, handler)
        except Cut as cut:
            self._log(request, cut.status, cut.sending)
            raise

    def _log(self, request: web.BaseRequest, status: int, sending: Sending | None) -> None:
        size, seconds = request.writer.output_size, time.perf_counter() - self._began
        if self._access_log is not None:
            client = client_of(request, self._clients) if self._clients.proxies else self._client
            self._access_log.add(Entry(client, request.method, request.raw_path, status, size, seconds))
        path = path_of(request)
        self._figures.answered(request.method, path, status, seconds)
        self._figures.sent(kind_of(request, path)).add(size - (sending.sent if sending is not None else 0))
        if path in DOWNLOADS and status in _WITH_CONTENT and request.method == hdrs.METH_GET:
            first_byte = sending.first_byte if sending is not None else None
            self._figures.began(path, seconds if first_byte is None else first_byte - self._began)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP with the status alone; the framework would say what its parser made of it."""
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size:
            raise ConnectionResetError
        _log.debug("%s: %s %s", self._client, status, exc or message)
        response = error_response(HTTPStatus(status))
        response.headers[hdrs.SERVER] = SERVER
        response.force_close()
        return response
