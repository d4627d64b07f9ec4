"""Ready answers, given before the framework parses the request.

A client that checks a closure asks for thousands of narinfos. Of the work for one of them, parsing the request, routing
it and building the response is nine tenths. So a request of the common shape, `GET` of something that was sent a moment
ago with no header that could change the answer, is answered here, with the answer that the framework's way made then.
Every other request goes on to the framework.

The protocol uses attributes of aiohttp's `RequestHandler` that its documentation does not promise: `_waiter`,
`_messages` (the message and the content of each request), `_paused`, `_close`, `_force_close`, `_keepalive_timeout`,
`_next_keepalive_close_time`, `_request_count`, and `_process_keepalive`.
tests/web/fast/test_protocol.py holds both ways against each other, byte by byte.
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Final

from aiohttp import web

from harmonia_py.cache.caches import NamedCache
from harmonia_py.web.admission.accepting import Acceptor
from harmonia_py.web.admission.access_log import AccessLog, Entry
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.fast.connection import Connection
from harmonia_py.web.fast.framing import left_after
from harmonia_py.web.fast.nar import FindNar
from harmonia_py.web.fast.narinfo import FindNarinfo
from harmonia_py.web.fast.ready_answers import GET, VERSION, Absent, Answer, NarinfoRequest, NarRequest, ReadyAnswers
from harmonia_py.web.fast.ready_file import FileTransfer, FileUnderWay, First, ReadyFile
from harmonia_py.web.http.transfer import Transfers
from harmonia_py.web.http_metrics import CLIENT, NAR, NARINFO, kind_of

_log = logging.getLogger(__name__)

# Bytes that a client may send ahead while a file is on its way to it, before it is made to wait.
_MAX_HELD_BYTES: Final = 64 * 1024


class FastProtocol(Connection):
    """A connection with the short way in front of the framework."""

    __slots__ = (
        "_answers",
        "_body_left",
        "_find_nar",
        "_find_narinfo",
        "_held",
        "_limiter",
        "_under_way",
        "_wants_close",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        answers: ReadyAnswers,
        transfers: Transfers,
        find_narinfo: FindNarinfo,
        find_nar: FindNar,
        acceptor: Acceptor,
        clients: Clients,
        access_log: AccessLog | None,
    ) -> None:
        super().__init__(manager, transfers=transfers, acceptor=acceptor, clients=clients, access_log=access_log)
        self._answers = answers
        self._find_narinfo = find_narinfo
        self._find_nar = find_nar
        self._limiter = clients.limiter
        # How many bytes of a body are still to come; 0 while the framework's parser holds no part of a request. None
        # when that cannot be told any more: the connection goes on to the framework for ever, as bytes that look like a
        # request could be the body of the one before.
        self._body_left: int | None = 0
        # The answer that is being made or sent, if any; meanwhile the framework believes that the connection is idle.
        self._under_way: FileUnderWay | asyncio.Task[None] | None = None
        self._held = b""
        self._wants_close = False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up the file on its way. A look-up goes on: to cancel it would cost a connection to the daemon."""
        if isinstance(self._under_way, FileUnderWay):
            self._under_way.transfer.cancel()
            self._end_of_file(self._under_way, sent=False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer ready requests at once, and hand all other bytes to the framework."""
        if self._under_way is not None:
            self._hold(data)
            return
        if self._body_left == 0 and data.startswith(GET) and self._is_idle():
            found = self._answers.find(data)
            if found is not None and self._may_ask():
                if self._answer(data, *found):
                    return
                self._take_back()
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        """Hand `data` to the framework."""
        count = self._request_count
        if self._body_left == 0 and not self.is_answering:
            judged = self.judge(data)
            if judged is None:
                return
            data = judged
        super().data_received(data)
        if self._body_left is not None:
            last = self._messages[-1][0] if self._messages else None
            self._body_left = left_after(self._body_left, data, self._request_count - count, last)

    def close(self) -> None:
        """Close the connection; an answer that is under way arrives first."""
        if self._under_way is None:
            super().close()
        else:
            self._wants_close = True

    @property
    def is_answering(self) -> bool:
        """Whether a request has come whose answer has not left."""
        return self._under_way is not None or super().is_answering

    def _may_ask(self) -> bool:
        # The framework's way tells a client that asks too often, and counts its request itself.
        return self._limiter is None or self._limiter.take(self._client) == 0

    def _take_back(self) -> None:
        """The request is the framework's after all, which counts it itself."""
        if self._limiter is not None:
            self._limiter.give_back(self._client)

    def _is_idle(self) -> bool:
        """Whether the framework waits for the next request, and the client has read the answers before."""
        waiter = self._waiter
        # The framework's task has a turn of the loop to go until it waits: when the connection is new, and after an
        # answer. Under load the next request is there by then, and every one after it would be the framework's.
        begins_to_wait = waiter is None and self._stays_open and self._answered == self._request_count
        waits = begins_to_wait or (waiter is not None and not waiter.done())
        return waits and not self._messages and not self._paused and not self._close and not self._force_close

    def _answer(self, request: bytes, cache: NamedCache, answer: Answer) -> bool:
        """Send `answer`; False when that would wait for the disk or for the client."""
        began = time.perf_counter()
        transport = self.transport
        assert transport is not None
        metrics, usage, status = self._metrics, cache.usage, HTTPStatus.OK
        if isinstance(answer, bytes):
            data, answered, asked = answer, metrics.ready_narinfos, usage.found
        elif isinstance(answer, Absent):
            data, answered, asked = answer.answer, metrics.absent_narinfos, usage.absent
            status = HTTPStatus.NOT_FOUND
        elif isinstance(answer, ReadyFile):
            return self._answer_with_file(transport, _target_of(request), answer, began)
        else:
            if isinstance(answer, NarinfoRequest):
                looking = self._look_up(answer, began)
            else:
                looking = self._look_up_nar(request, answer, began)
            self._under_way = self._loop.create_task(looking)
            self._under_way.add_done_callback(self._looked_up)
            return True
        transport.write(data)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        size, seconds = len(data), time.perf_counter() - began
        metrics.narinfo_bytes.add(size)
        answered.observe(seconds)
        asked.add()
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "GET", _target_of(request), status, size, seconds))
        return True

    def _answer_with_file(self, transport: asyncio.Transport, target: str, file: ReadyFile, began: float) -> bool:
        first = file.first(self._answers.date())
        if first is None:
            return False
        if first.size < file.file.size:
            return self._send(transport, file, first, target, began)
        self._metrics.began("nar", time.perf_counter() - began)
        transport.write(first.data)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._note_file(target, len(first.data), time.perf_counter() - began)
        return True

    def _send(self, transport: asyncio.Transport, file: ReadyFile, first: First, target: str, began: float) -> bool:
        if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
            return False
        transfer = FileTransfer(transport, self._transfers.threads, self._transfers.limits, self._file_sent)
        self._metrics.in_flight.add(1)
        self._under_way = FileUnderWay(transfer, file, target, began)
        file.use()
        transfer.start(first, file)
        self._metrics.began("nar", time.perf_counter() - began)
        return True

    async def _look_up(self, request: NarinfoRequest, began: float) -> None:
        """Answer with a narinfo that has to be found first."""
        status, answer = await self._find_narinfo(request)
        request.cache.usage.asked(status)
        self._give(request.target, status, answer, began, NARINFO)

    async def _look_up_nar(self, data: bytes, request: NarRequest, began: float) -> None:
        """Answer the request `data` with a file that has to be opened first, or that is not there, or pass it on."""
        file = await self._find_nar(request)
        if isinstance(file, bytes):
            self._give(request.target, HTTPStatus.NOT_FOUND, file, began, NAR)
            return
        self._under_way = None
        transport = self.transport
        if transport is None:
            return
        if file is not None and self._answer_with_file(transport, f"/{request.target}", file, began):
            if self._under_way is None:
                self._go_on()
            return
        self._take_back()
        self._pass_on(data)
        self._go_on()

    def _give(self, target: str, status: HTTPStatus, answer: bytes, began: float, path: str) -> None:
        """Give the answer that was found for a route, log and count it, and turn to the next request."""
        self._under_way = None
        if self.transport is not None:
            self.transport.write(answer)
        seconds = time.perf_counter() - began
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "GET", f"/{target}", status, len(answer), seconds))
        self._metrics.answered("GET", path, status, seconds)
        self._metrics.sent(kind_of(target, path)).add(len(answer))
        self._go_on()

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        """Cut the connection after an unforeseen error: the client would wait for an answer that never comes."""
        if task.cancelled() or task.exception() is None:
            return
        _log.error("an unforeseen error on the way to an answer", exc_info=task.exception())
        if self._under_way is task:
            self._under_way = None
        if self.transport is not None:
            self.transport.abort()

    def _file_sent(self, sent: bool) -> None:  # noqa: FBT001  # a callback
        assert isinstance(self._under_way, FileUnderWay)
        self._end_of_file(self._under_way, sent=sent)
        if sent:
            self._go_on()
        elif self.transport is not None:
            self.transport.abort()

    def _go_on(self) -> None:
        """Turn to the bytes that the client has sent meanwhile."""
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
        if self._has_ended and not self.is_answering:
            self.force_close()

    def _end_of_file(self, sending: FileUnderWay, *, sent: bool) -> None:
        self._under_way = None
        sending.file.leave()
        self._metrics.in_flight.add(-1)
        self._note_file(sending.target, sending.transfer.sent, time.perf_counter() - sending.began)
        if not sent:
            self._metrics.aborted[CLIENT].add()

    def _hold(self, data: bytes) -> None:
        """Keep the bytes that a client sends before it has its answer, up to a bound."""
        self._held += data
        if len(self._held) > _MAX_HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _process_keepalive(self) -> None:
        """Keep the framework from closing a connection that it believes to be idle while an answer is under way."""
        if self._under_way is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    def _note_file(self, target: str, size: int, seconds: float) -> None:
        """Log and count a file that the framework knows nothing of."""
        if self._access_log is not None:
            self._access_log.add(Entry(self._client, "GET", target, HTTPStatus.OK, size, seconds))
        self._metrics.ready_nars.observe(seconds)
        self._metrics.compressed_nar_bytes.add(size)


def _target_of(request: bytes) -> str:
    return request[len(GET) - 1 : request.index(VERSION)].decode()
