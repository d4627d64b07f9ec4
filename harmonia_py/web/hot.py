"""Ready answers, given before the framework parses the request.

A client that checks a closure asks for thousands of narinfos. Of the work for one of them, parsing the request, routing
it and building the response is nine tenths; so a request of the common shape, `GET` of something that was sent a moment
ago with no header that could change the answer, is answered here from what the slow way made. Everything else goes on
to the framework.

The protocol uses attributes of aiohttp's `RequestHandler` that its documentation does not promise: `_waiter`,
`_messages`, `_paused`, `_close`, `_force_close`, `_keepalive_timeout`, `_next_keepalive_close_time`, `_request_count`,
`_request_in_progress`, and `_process_keepalive`.
tests/web/test_hot.py holds both ways against each other, byte by byte.
"""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web

from harmonia_py.web.accepting import Acceptor
from harmonia_py.web.access_log import AccessLog, Entry
from harmonia_py.web.clients import Clients
from harmonia_py.web.connection import Connection
from harmonia_py.web.figures import CLIENT, HttpFigures
from harmonia_py.web.hot_answers import END, GET, VERSION, AskedNarinfo, ReadyAnswers
from harmonia_py.web.hot_file import FileTransfer, ReadyFile
from harmonia_py.web.lane import Lane
from harmonia_py.web.transfer import Transfers

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


class HotProtocol(Connection):
    """A connection with the short way in front of the framework."""

    __slots__ = ("_answers", "_between_requests", "_held", "_lane", "_limiter", "_under_way", "_wants_close")

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
        super().__init__(
            manager,
            loop=loop,
            transfers=transfers,
            acceptor=acceptor,
            clients=clients,
            access_log=access_log,
            figures=figures,
        )
        self._answers = answers
        self._lane = lane
        self._limiter = clients.limiter
        # Whether the framework's parser holds no part of a request. When that cannot be told any more, the connection
        # goes the slow way for ever: what looks like a request could be the body of the one before.
        self._between_requests = True
        # The answer that is being made or sent, if any; meanwhile the framework believes that the connection is idle.
        self._under_way: _FileUnderWay | _LookUp | None = None
        self._held = b""
        self._wants_close = False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the file that was on its way. A look-up goes on: cancelled, it would cost a daemon connection."""
        if isinstance(self._under_way, _FileUnderWay):
            self._under_way.transfer.cancel()
            self._end_of_file(self._under_way, sent=False)
        super().connection_lost(exc)

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
        if self._between_requests:
            self._between_requests = self._request_count == count + 1 and _is_one_plain_request(data)

    def close(self) -> None:
        """Close the connection; an answer that is under way arrives first."""
        if self._under_way is None:
            super().close()
        else:
            self._wants_close = True

    @property
    def is_answering(self) -> bool:
        """Whether a request has come whose answer has not left."""
        return self._under_way is not None or self._request_in_progress or bool(self._messages)

    def _may_ask(self) -> bool:
        # Who may not is told by the slow way, which counts for itself.
        return self._limiter is None or self._limiter.take(self._client) == 0

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


def _is_one_plain_request(data: bytes) -> bool:
    if not data.startswith((b"GET ", b"HEAD ")) or data.find(END) != len(data) - len(END):
        return False
    lower = data.lower()
    return not any(word in lower for word in (b"content-length", b"transfer-encoding", b"upgrade"))
