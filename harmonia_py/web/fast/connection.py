"""The parts of a connection around the framework's protocol: the access log, metrics and time limits.

It uses attributes of aiohttp's `RequestHandler` that its documentation does not promise: `_paused`,
`_keepalive_timeout`, `_next_keepalive_close_time`, `_messages`, `_close`, `_request_count`, `_logging_enabled`,
`_handle_request`, `_drain_helper`, and `_version` and `_headers` of its `BaseRequest`.
"""

import asyncio
import logging
import time
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from harmonia_py.web.admission.accepting import Acceptor
from harmonia_py.web.admission.access_log import AccessLog, Entry
from harmonia_py.web.admission.clients import GONE, Clients, client_of, peer_of
from harmonia_py.web.fast.ready_answers import SERVER
from harmonia_py.web.http.errors import error_response, middleware
from harmonia_py.web.http.request_line import judge
from harmonia_py.web.http.transfer import DownloadResponse, ResponseAborted, Transfers
from harmonia_py.web.http_metrics import DOWNLOADS, NARINFO, OTHER, Sending, kind_of, path_of
from harmonia_py.web.state import CACHE, WAITS_WITH_BODY

_log = logging.getLogger(__name__)

_SPOKEN: Final = frozenset({HttpVersion10, HttpVersion11})
_WITH_CONTENT: Final = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT})


class Connection(web.RequestHandler):
    """aiohttp's protocol, with our access log behind it; it closes the connections of clients that are too slow."""

    __slots__ = (
        "_acceptor",
        "_access_log",
        "_answered",
        "_began",
        "_client",
        "_clients",
        "_content",
        "_has_ended",
        "_header_since",
        "_metrics",
        "_stays_open",
        "_transfers",
        "_untaken",
        "_untaken_since",
        "_wire",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        transfers: Transfers,
        acceptor: Acceptor,
        clients: Clients,
        access_log: AccessLog | None,
    ) -> None:
        keepalive = transfers.limits.keepalive_timeout
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None is documented
            keepalive_timeout=keepalive,
            # A pushed body is hashed as it came, and decompressed within bounds of ours.
            auto_decompress=False,
        )
        # The framework reports the end of an answer only when it logs; we need it to count.
        self._logging_enabled = True
        self._access_log = access_log
        self._transfers = transfers
        self._acceptor = acceptor
        self._clients = clients
        self._metrics = transfers.metrics
        # How many of the `_request_count` requests that have come are answered.
        self._answered = 0
        # Whether the framework leaves the connection open after the last request.
        self._stays_open = True
        # By a finer clock than uvloop's, which counts whole milliseconds.
        self._began = 0.0
        self._client = "unix"
        # The transport, also when the framework has let go of it.
        self._wire: asyncio.Transport | None = None
        # Since when a header has begun and not ended.
        self._header_since: float | None = None
        # The content of the last request whose header is complete.
        self._content: StreamReader | None = None
        # Whether the client has shut its side: it sends nothing any more, and may still read.
        self._has_ended = False
        # Bytes of answers that the client has not taken, and since when it takes nothing.
        self._untaken = 0
        self._untaken_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the client's address; the framework does the rest."""
        # uvloop's transports are no subclasses of asyncio's.
        self._wire = cast("asyncio.Transport", transport)
        self._client = peer_of(transport)
        self._acceptor.opened(self, self._client)
        self._metrics.connections.add()
        super().connection_made(transport)
        if self._client == GONE:
            # The client has gone, and its requests could not be counted: its address is not known.
            self._wire.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the acceptor that there is room for another connection."""
        self._metrics.connections.add(-1)
        self._wire = None
        super().connection_lost(exc)
        self._acceptor.lost(self)

    def data_received(self, data: bytes) -> None:
        """Hand `data` to the framework, and note whether it is the beginning of a header."""
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self._header_since = None
            self._content = self._messages[-1][1]
        elif self._header_since is None and (self._content is None or self._content.is_eof()):
            # Also of bytes that came together with the connection, and while an answer is under way.
            self._header_since = self._loop.time()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio lets a protocol say so
        """Whether the connection stays open: for a client that has only shut its side, until it has its answers."""
        self._has_ended = True
        if self._content is not None and not self._content.is_eof():
            return False  # the rest of the body never comes: the client was ended in the middle of a push
        # TLS knows no connection that is shut on one side: RFC 8446, section 6.1, is not what libraries do.
        return self.is_answering and self._wire is not None and self._wire.get_extra_info("sslcontext") is None

    @property
    def idle_since(self) -> float | None:
        """Since when the client could send its next request; None while an answer is made or sent.

        A client that has begun a request, and takes long to finish it, is idle.
        """
        if self.is_answering or (self._wire is not None and self._wire.get_write_buffer_size()):
            return None
        return self._next_keepalive_close_time - self._keepalive_timeout

    @property
    def is_answering(self) -> bool:
        """Whether a request has come whose answer has not left."""
        # The framework sets `_request_in_progress` only once the task has begun.
        return self._request_count > self._answered

    def refuse(self, status: HTTPStatus) -> None:
        """Answer bytes that the framework shall not see with `status`, and close the connection."""
        assert self._wire is not None
        answer = _refusal(status)
        self._wire.write(answer)
        self._log_line(status, len(answer))
        self.force_close()

    def judge(self, data: bytes) -> bytes | None:
        """`data`, which begins a request, for the framework; None when it has been answered."""
        judged = judge(data)
        if isinstance(judged, bytes):
            return judged
        self.refuse(judged)
        return None

    async def _drain_helper(self) -> None:
        """Wait until the client has read the answers before; a client that stands still is cut."""
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
        if self._header_since is not None and self.is_answering:
            # The client may wait for that answer; to say 408 now would be a part of it.
            self._header_since = now
        if self._header_since is not None and now - self._header_since > limits.header_timeout:
            self._header_since = None
            # A client that drips headers to keep connections busy learns as much as one that is only slow.
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        untaken = wire.get_write_buffer_size()
        if untaken == 0 or untaken < self._untaken or self._untaken == 0:
            self._untaken_since = now
        elif now - self._untaken_since > limits.stall_timeout:
            wire.abort()
        self._untaken = untaken

    def _log_line(self, status: HTTPStatus, size: int) -> None:
        """Log and count an answer to bytes that never became a request."""
        self._metrics.answered(OTHER, OTHER, status, 0.0)
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "-", "-", status, size, 0.0))

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:  # noqa: ARG002  # its clock is too coarse
        """Note that an answer has ended: the framework calls it."""
        self._log(request, response.status, response.sending if isinstance(response, DownloadResponse) else None)

    async def _handle_request(self, request: web.BaseRequest, start_time: float | None, handler: Any) -> Any:
        """Handle a request as the framework does, and log also an answer that was cut."""
        self._began = time.perf_counter()
        # Not `version`, which is computed once and kept.
        if request._version not in _SPOKEN:  # noqa: SLF001
            # The framework would answer in the version that the client named: 0.9, 2.0.
            request._version = HttpVersion10  # noqa: SLF001
        # Not `headers`, which is computed once and kept.
        sent = request._headers  # noqa: SLF001
        if hdrs.EXPECT in sent:
            # An expectation that it does not know the framework refuses in its own words, before our middleware runs.
            handler = partial(middleware, handler=handler)
            if sent[hdrs.EXPECT].lower() == "100-continue":
                # The framework would tell the client to send the body before the gate has decided.
                request._headers = _without(sent, hdrs.EXPECT)  # noqa: SLF001
                request[WAITS_WITH_BODY] = True
        self._stays_open = False
        try:
            response, reset = await super()._handle_request(request, start_time, handler)
        except ResponseAborted as cut:
            self._log(request, cut.status, cut.sending)
            raise
        else:
            self._stays_open = not reset and bool(response.keep_alive)
            return response, reset
        finally:
            self._answered += 1
            if self._has_ended and not self._messages:
                self._close = True

    def _log(self, request: web.BaseRequest, status: int, sending: Sending | None) -> None:
        size, seconds = request.writer.output_size, time.perf_counter() - self._began
        if self._access_log is not None:
            client = client_of(request, self._clients) if self._clients.proxies else self._client
            self._access_log.add(Entry(client, request.method, request.raw_path, status, size, seconds))
        path = path_of(request)
        self._metrics.answered(request.method, path, status, seconds)
        if path == NARINFO and (cache := request.get(CACHE)) is not None:
            cache.usage.asked(status)
        self._metrics.sent(kind_of(request.path, path)).add(size - (sending.sent if sending is not None else 0))
        if path in DOWNLOADS and status in _WITH_CONTENT and request.method == hdrs.METH_GET:
            first_byte = sending.first_byte if sending is not None else None
            self._metrics.began(path, seconds if first_byte is None else first_byte - self._began)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no HTTP with the status alone; the framework would add its parser's message."""
        if isinstance(exc, ConnectionError):
            raise exc
        if request.writer.output_size:
            raise ConnectionResetError
        if isinstance(exc, LineTooLong):
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        _log.debug("%s: %s %s", self._client, status, exc or message)
        # The framework takes a request that it could not read for HTTP/1.0, which need not announce that it closes.
        request._version = HttpVersion11  # noqa: SLF001
        response = error_response(HTTPStatus(status))
        response.headers[hdrs.SERVER] = SERVER
        response.force_close()
        return response


def _without(headers: CIMultiDictProxy[str], name: str) -> CIMultiDictProxy[str]:
    others = CIMultiDict(headers)
    del others[name]
    return CIMultiDictProxy(others)


def _refusal(status: HTTPStatus) -> bytes:
    body = f"{status.phrase}\n"
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        "Cache-Control: no-store",
        f"Content-Length: {len(body)}",
        f"Date: {formatdate(usegmt=True)}",
        "Connection: close",
        f"Server: {SERVER}",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET,HEAD")
    return "\r\n".join([*lines, "", body]).encode()
