"""HTTP over a bare socket: many requests at once, and what came back, as it came.

with Exchange(port) as exchange:
    exchange.ask(b"GET … GET …", ["GET", "HEAD"])   # Answers, in order; fewer when the server closed
    exchange.last(b"…")                             # all bytes until the server closes, after it saw our end
"""

import re
import select
import socket
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from watched import TIME_LIMIT, decompressed

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [ -~]*\r\n")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([ -~\x80-\xff]*)")
_SENT_AT_ONCE: Final = 1 << 16


class NoHttp(Exception):
    """What the server sent is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes: `headers` by their names in lower case; `body` as it was before it was coded."""

    status: int
    head: bytes
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close" or (
            self.head.startswith(b"HTTP/1.0") and self.headers.get("connection", "").lower() != "keep-alive"
        )


class Exchange:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIME_LIMIT)
        self._socket.setblocking(False)
        self.is_over = False
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, data: bytes, methods: Sequence[str]) -> list[Answer]:
        """Answers to requests with these methods, up to the one after which the server closes."""
        answers: list[Answer] = []
        unsent = memoryview(data)
        while len(answers) < len(methods) and not self.is_over:
            unsent = self._move(unsent)
            while len(answers) < len(methods):
                answer = self._take(methods[len(answers)])
                if answer is None:
                    break
                answers.append(answer)
                if answer.closes:
                    self.is_over = True
                    break
        if self.is_over and len(answers) < len(methods) and self._received and not (answers and answers[-1].closes):
            raise NoHttp(f"cut: {bytes(self._received[:200])!r}")
        return answers

    def last(self, data: bytes, *, leaves: bool = False) -> bytes:
        """All that comes until the server closes; nothing, when the client `leaves` as one that is killed."""
        unsent = memoryview(data)
        while unsent and not self.is_over:
            unsent = self._move(unsent)
        if leaves:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        if not self.is_over:
            self._socket.shutdown(socket.SHUT_WR)
        while not self.is_over:
            self._move(unsent)
        return bytes(self._received)

    def _move(self, unsent: memoryview) -> memoryview:
        """Send and receive what can be; what is left to be sent."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if unsent else 0))
        events = poll.poll(TIME_LIMIT * 1000)
        if not events:
            raise TimeoutError(f"no answer, and no end; so far {bytes(self._received[:200])!r}")
        try:
            if events[0][1] & select.POLLOUT:
                unsent = unsent[self._socket.send(unsent[:_SENT_AT_ONCE]) :]
            if events[0][1] & (select.POLLIN | select.POLLHUP | select.POLLERR):
                data = self._socket.recv(1 << 18)
                self._received += data
                self.is_over = not data
        except BlockingIOError:
            pass
        except ConnectionError:
            self.is_over = True
        return unsent

    def _take(self, method: str) -> Answer | None:
        """The next answer, when all of it is there."""
        while True:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = bytes(self._received[: end + 2])
            status, headers = parse_head(head)
            if status >= 200:
                break
            del self._received[: end + 4]
        found = (b"", end + 4) if method == "HEAD" or status in {204, 304} else self._body(headers, end + 4)
        if found is None:
            return None
        body, stop = found
        del self._received[:stop]
        return Answer(status, head, headers, _decoded(body, headers))

    def _body(self, headers: dict[str, str], start: int) -> tuple[bytes, int] | None:
        if headers.get("transfer-encoding") == "chunked":
            return self._chunks(start)
        if "content-length" not in headers:
            return (bytes(self._received[start:]), len(self._received)) if self.is_over else None
        stop = start + int(headers["content-length"])
        return (bytes(self._received[start:stop]), stop) if len(self._received) >= stop else None

    def _chunks(self, start: int) -> tuple[bytes, int] | None:
        parts: list[bytes] = []
        while (end := self._received.find(b"\r\n", start)) >= 0:
            size = int(self._received[start:end], 16)
            start = end + 2 + size + 2
            if len(self._received) < start:
                return None
            if self._received[start - 2 : start] != b"\r\n":
                raise NoHttp("a chunk is longer than it says")
            if size == 0:
                return b"".join(parts), start
            parts.append(bytes(self._received[end + 2 : start - 2]))
        return None


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status and headers, or NoHttp."""
    status_line = _STATUS_LINE.match(head)
    if status_line is None:
        raise NoHttp(f"no status line: {head[:200]!r}")
    headers: dict[str, str] = {}
    for line in head[status_line.end() :].split(b"\r\n")[:-1]:
        field = _HEADER.fullmatch(line)
        if field is None:
            raise NoHttp(f"no header: {line!r}")
        name = field[1].decode().lower()
        if name in headers:
            raise NoHttp(f"twice: {line!r}")
        headers[name] = field[2].decode("latin-1")
    return int(status_line[1]), headers


def _decoded(body: bytes, headers: dict[str, str]) -> bytes:
    match headers.get("content-encoding"):
        case "zstd" if body:
            return decompressed(body)
        case "gzip" if body:
            return zlib.decompress(body, zlib.MAX_WBITS | 16)
    return body
