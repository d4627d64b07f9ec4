"""Ready answers, given before the framework parses the request.

A client that checks a closure asks for thousands of narinfos. Of the work for one of them, parsing the request, routing
it and building the response is nine tenths; so a request of the common shape, `GET` of something that was sent a moment
ago with no header that could change the answer, is answered here from what the slow way made. Everything else goes on
to the framework.

The protocol uses attributes of aiohttp's `RequestHandler` that its documentation does not promise: `_waiter`,
`_messages`, `_paused`, `_close`, `_force_close`, `_keepalive_timeout`, `_next_keepalive_close_time`, `_request_count`,
`_logging_enabled`, `_request_in_progress`, `_handle_request`, `_drain_helper`, `_process_keepalive`, and `_version` of
its `BaseRequest`.
tests/web/test_hot.py holds both ways against each other, byte by byte.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from harmonia_py.web.accepting import Acceptor
from harmonia_py.web.access_log import AccessLog, Entry
from harmonia_py.web.clients import GONE, Clients, client_of, peer_of
from harmonia_py.web.errors import error_response, middleware
from harmonia_py.web.figures import CLIENT, DOWNLOADS, HttpFigures, Sending, kind_of, path_of
from harmonia_py.web.hot_answers import END, GET, SERVER, VERSION, AskedNarinfo, ReadyAnswers
from harmonia_py.web.hot_file import FileTransfer, ReadyFile
from harmonia_py.web.lane import Lane
from harmonia_py.web.transfer import Cut, DownloadResponse, Transfers

_log = logging.getLogger(__name__)

_SPOKEN: Final = frozenset({HttpVersion10, HttpVersion11})
_WITH_CONTENT: Final = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT})

# Whoever sends headers byte by byte to keep connections busy learns as much as whoever is only slow.
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
    b"Content-Length: 16\r\nConnection: close\r\nServer: " + SERVER.encode() + b"\r\n\r\nRequest Timeout\n"
)

# What a client may send ahead while a file is on its way to it, before it is made to wait.
_MAX_HELD_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _FileUnderWay:
    transfer: FileTransfer
    file: ReadyFile
    target: str
    began: float


@dataclass(frozen=True, slots=True)
class _LookUp:
    task: asyncio.Task[None]


class HotProtocol(web.RequestHandler):
    """aiohttp's protocol, with the short way in front of it and our access log behind it."""

    __slots__ = (
        "_acceptor",
        "_access_log",
        "_answers",
        "_began",
        "_between_requests",
        "_client",
        "_clients",
        "_figures",
        "_header_since",
        "_held",
        "_lane",
        "_limiter",
        "_transfers",
        "_under_way",
        "_untaken",
        "_untaken_since",
        "_wants_close",
        "_wire",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        answers: ReadyAnswers,
        transfers: Transfers,
        lane: Lane,
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
        self._answers = answers
        self._transfers = transfers
        self._lane = lane
        self._acceptor = acceptor
        self._clients = clients
        self._limiter = clients.limiter
        self._figures = figures
        # By a finer clock than uvloop's, which counts whole milliseconds.
        self._began = 0.0
        self._client = "unix"
        # Whether the framework's parser holds no part of a request. When that cannot be told any more, the connection
        # goes the slow way for ever: what looks like a request could be the body of the one before.
        self._between_requests = True
        # The answer that is being made or sent, if any; meanwhile the framework believes that the connection is idle.
        self._under_way: _FileUnderWay | _LookUp | None = None
        self._held = b""
        self._wants_close = False
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
        """Let go of the file that was on its way. A look-up goes on: cancelled, it would cost a daemon connection."""
        if isinstance(self._under_way, _FileUnderWay):
            self._under_way.transfer.cancel()
            self._end_of_file(self._under_way, sent=False)
        self._figures.connections.add(-1)
        self._wire = None
        super().connection_lost(exc)
        self._acceptor.lost()

    def data_received(self, data: bytes) -> None:
        """Answer at once what can be, and hand everything else to the framework."""
        if self._under_way is not None:
            self._hold(data)
            return
        if self._between_requests and data.startswith(GET) and self._is_idle():
            answer = self._answers.find(data)
            if answer is not None and self._may_ask():
                if self._answer(data, answer):
                    return
                if self._limiter is not None:
                    self._limiter.give_back(self._client)
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self._header_since = None
        elif self._header_since is None and self._waiter is not None:
            self._header_since = self._loop.time()
        if self._between_requests:
            self._between_requests = self._request_count == count + 1 and _is_one_plain_request(data)

    def close(self) -> None:
        """Close the connection; an answer that is under way arrives first."""
        if self._under_way is None:
            super().close()
        else:
            self._wants_close = True

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

    @property
    def is_answering(self) -> bool:
        """Whether a request has come whose answer has not left."""
        return self._under_way is not None or self._request_in_progress or bool(self._messages)

    def _may_ask(self) -> bool:
        # Who may not is told by the slow way, which counts for itself.
        return self._limiter is None or self._limiter.take(self._client) == 0

    def _log_line(self, status: HTTPStatus) -> None:
        """Log what never was a request."""
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "-", "-", status, len(_TOO_SLOW), 0.0))

    def _is_idle(self) -> bool:
        """Whether the framework waits for the next request, and the client has read the answers before."""
        waiter = self._waiter
        return (
            waiter is not None
            and not waiter.done()
            and not self._messages
            and not self._paused
            and not self._close
            and not self._force_close
        )

    def _answer(self, request: bytes, answer: bytes | ReadyFile | AskedNarinfo) -> bool:
        """Send `answer`; False when that would wait for the disk or for the client."""
        began = time.perf_counter()
        transport = self.transport
        assert transport is not None
        if isinstance(answer, AskedNarinfo):
            self._under_way = _LookUp(self._loop.create_task(self._look_up(answer, began)))
            return True
        target = request[len(GET) - 1 : request.index(VERSION)].decode()
        if isinstance(answer, ReadyFile):
            first = answer.first(self._answers.date())
            if first is None:
                return False
            if not answer.is_small:
                return self._send_file(transport, answer, first, target)
            answer = first
            self._figures.began("nar", time.perf_counter() - began)
        transport.write(answer)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._note(target, len(answer), time.perf_counter() - began)
        return True

    def _send_file(self, transport: asyncio.Transport, file: ReadyFile, first: bytes, target: str) -> bool:
        if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
            return False
        transfer = FileTransfer(transport, self._transfers.threads, self._transfers.limits, self._file_sent)
        self._figures.in_flight.add(1)
        began = time.perf_counter()
        self._under_way = _FileUnderWay(transfer, file, target, began)
        file.use()
        transfer.start(first, file)
        self._figures.began("nar", time.perf_counter() - began)
        return True

    async def _look_up(self, asked: AskedNarinfo, began: float) -> None:
        """Answer with a narinfo that has to be found first."""
        status, answer = await self._lane(asked)
        self._under_way = None
        if self.transport is not None:
            self.transport.write(answer)
        seconds = time.perf_counter() - began
        target = f"/{asked.hash_part}.narinfo"
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "GET", target, status, len(answer), seconds))
        self._figures.answered("GET", "narinfo", status, seconds)
        self._figures.narinfo_bytes.add(len(answer))
        self._go_on()

    def _file_sent(self, sent: bool) -> None:  # noqa: FBT001  # a callback
        assert isinstance(self._under_way, _FileUnderWay)
        self._end_of_file(self._under_way, sent=sent)
        if sent:
            self._go_on()
        elif self.transport is not None:
            self.transport.abort()

    def _go_on(self) -> None:
        """Turn to what the client has sent meanwhile."""
        transport = self.transport
        if transport is None:
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        held, self._held = self._held, b""
        if self._wants_close:
            super().close()
        elif held:
            transport.resume_reading()
            self.data_received(held)

    def _end_of_file(self, sending: _FileUnderWay, *, sent: bool) -> None:
        self._under_way = None
        sending.file.leave()
        self._figures.in_flight.add(-1)
        self._note(sending.target, sending.transfer.sent, time.perf_counter() - sending.began)
        if not sent:
            self._figures.aborted[CLIENT].add()

    def _hold(self, data: bytes) -> None:
        """Keep what a client sends before it has its answer, up to a bound."""
        self._held += data
        if len(self._held) > _MAX_HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _process_keepalive(self) -> None:
        """The framework closes what it believes to be idle; an answer under way is not."""
        if self._under_way is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def _note(self, target: str, size: int, seconds: float) -> None:
        """Log and count an answer that the framework knows nothing of."""
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "GET", target, HTTPStatus.OK, size, seconds))
        if target.endswith(".narinfo"):
            self._figures.ready_narinfos.observe(seconds)
            self._figures.narinfo_bytes.add(size)
        else:
            self._figures.ready_nars.observe(seconds)
            self._figures.compressed_nar_bytes.add(size)

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


def _is_one_plain_request(data: bytes) -> bool:
    if not data.startswith((b"GET ", b"HEAD ")) or data.find(END) != len(data) - len(END):
        return False
    lower = data.lower()
    return not any(word in lower for word in (b"content-length", b"transfer-encoding", b"upgrade"))
