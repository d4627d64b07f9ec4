"""Ready narinfos, answered before the framework parses the request.

A client that checks a closure asks for thousands of narinfos. Of the work for one of them, parsing the request, routing
it and building the response is nine tenths; so a request of the common shape, `GET /<hash part>.narinfo` with no header
that could change the answer, is answered here from bytes that the slow way made a moment ago. Everything else goes on
to the framework.

The protocol uses attributes of aiohttp's `RequestHandler` that its documentation does not promise: `_waiter`,
`_messages`, `_paused`, `_close`, `_force_close`, `_keepalive_timeout`, `_next_keepalive_close_time`, `_request_count`,
`_logging_enabled`, `_request_in_progress`, `_handle_request`. tests/web/test_hot.py holds both ways against each other,
byte by byte.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web

from harmonia_py.web.access_log import AccessLog, Entry
from harmonia_py.web.errors import error_response
from harmonia_py.web.transfer import Cut

_log = logging.getLogger(__name__)

# What every answer says of the program; its version and libraries are nobody's business.
SERVER: Final = "harmonia-py"

# For so long an answer is given without asking again: a collected path stops being offered within this time.
READY_SECONDS: Final = 2.0
# A narinfo takes about one KiB; this bounds a worker's memory, not what it can serve.
MAX_READY: Final = 8192

_HASH_PART_START: Final = 5  # after b"GET /"
_HASH_PART_END: Final = 37
_TARGET_END: Final = b".narinfo HTTP/1.1\r\n"
_HEADERS_START: Final = _HASH_PART_END + len(_TARGET_END)
_END: Final = b"\r\n\r\n"

# Headers that do not change the answer, whatever their value. A request with any other goes the slow way.
_HARMLESS: Final = frozenset({b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"via"})
# Clients send the same block of headers with every request, so it is looked at once.
_MAX_HEADER_BLOCKS: Final = 256
_MAX_HEADER_BLOCK_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class _Ready:
    head: bytes
    tail: bytes
    expires: float


class ReadyAnswers:
    """The narinfo answers of one worker that may be given again as they are."""

    def __init__(self) -> None:
        # Every answer lives equally long, so the oldest is the first to expire.
        self._answers: OrderedDict[bytes, _Ready] = OrderedDict()
        self._harmless_blocks: set[bytes] = set()
        self._date = b""
        self._date_second = 0

    def add(self, hash_part: str, response: web.Response) -> None:
        """Remember the 200 that was made for `hash_part`, before the framework prepares it."""
        body = response.body
        assert isinstance(body, bytes)
        lines = [f"{name}: {value}\r\n" for name, value in response.headers.items()]
        head = "".join(["HTTP/1.1 200 OK\r\n", *lines, f"Content-Length: {len(body)}\r\nDate: "]).encode()
        tail = f"\r\nServer: {SERVER}\r\n\r\n".encode() + body
        now = time.monotonic()
        key = hash_part.encode()
        self._answers[key] = _Ready(head, tail, now + READY_SECONDS)
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_READY or next(iter(self._answers.values())).expires <= now:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Forget every answer: the cache behind them is another one now."""
        self._answers.clear()

    def find(self, request: bytes) -> bytes | None:
        """The whole answer to `request`, or None when it must go the slow way."""
        if request[_HASH_PART_END:_HEADERS_START] != _TARGET_END:
            return None
        ready = self._answers.get(request[_HASH_PART_START:_HASH_PART_END])
        if ready is None or ready.expires <= time.monotonic():
            return None
        headers = request[_HEADERS_START:]
        if headers not in self._harmless_blocks and not self._is_harmless(headers):
            return None
        return b"".join((ready.head, self._now(), ready.tail))

    def _now(self) -> bytes:
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date = formatdate(second, usegmt=True).encode()
        return self._date

    def _is_harmless(self, block: bytes) -> bool:
        """Whether `block` is the header lines of one whole request, its last bytes, and changes nothing."""
        if len(block) > _MAX_HEADER_BLOCK_BYTES or block.find(_END) != len(block) - len(_END):
            return False
        names = []
        for line in block[: -len(_END)].split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not colon or not value.isascii() or not value.decode().isprintable():
                return False
            names.append(name.lower())
        if names.count(b"host") != 1 or not _HARMLESS.issuperset(name for name in names if name != b"host"):
            return False
        if len(self._harmless_blocks) >= _MAX_HEADER_BLOCKS:
            self._harmless_blocks.clear()
        self._harmless_blocks.add(block)
        return True


class HotProtocol(web.RequestHandler):
    """aiohttp's protocol, with the short way in front of it and our access log behind it."""

    __slots__ = ("_access_log", "_answers", "_between_requests", "_client")

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        answers: ReadyAnswers,
        access_log: AccessLog | None,
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, access_log=None, **options)  # type: ignore[arg-type]  # None is documented
        self._logging_enabled = access_log is not None
        self._access_log = access_log
        self._answers = answers
        self._client = "unix"
        # Whether the framework's parser holds no part of a request. When that cannot be told any more, the connection
        # goes the slow way for ever: what looks like a request could be the body of the one before.
        self._between_requests = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the client's address; the framework does the rest."""
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            # A socket for both families shows IPv4 clients as IPv6 addresses.
            self._client = str(peer[0]).removeprefix("::ffff:")
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Answer at once what can be, and hand everything else to the framework."""
        if self._between_requests and data.startswith(b"GET /") and self._is_idle():
            answer = self._answers.find(data)
            if answer is not None:
                self._answer(data, answer)
                return
        count = self._request_count
        super().data_received(data)
        if self._between_requests:
            self._between_requests = self._request_count == count + 1 and _is_one_plain_request(data)

    @property
    def is_answering(self) -> bool:
        """Whether a request has come whose answer has not left."""
        return self._request_in_progress or bool(self._messages)

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

    def _answer(self, request: bytes, answer: bytes) -> None:
        assert self.transport is not None
        self.transport.write(answer)
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._access_log is not None:
            target = request[4 : _HASH_PART_END + 8].decode()
            self._access_log.add(Entry(self._client, "GET", target, 200, len(answer), 0.0))

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """What the framework calls when an answer has ended; `time` is when it began."""
        self._log(request, response.status, time)

    async def _handle_request(self, request: web.BaseRequest, start_time: float | None, handler: Any) -> Any:
        """As the framework does, but an answer that was cut is logged as well."""
        try:
            return await super()._handle_request(request, start_time, handler)
        except Cut as cut:
            self._log(request, cut.status, start_time)
            raise

    def _log(self, request: web.BaseRequest, status: int, start_time: float | None) -> None:
        if self._access_log is not None and start_time is not None:
            size, seconds = request.writer.output_size, self._loop.time() - start_time
            self._access_log.add(Entry(self._client, request.method, request.raw_path, status, size, seconds))

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
    if not data.startswith((b"GET ", b"HEAD ")) or data.find(_END) != len(data) - len(_END):
        return False
    lower = data.lower()
    return not any(word in lower for word in (b"content-length", b"transfer-encoding", b"upgrade"))
