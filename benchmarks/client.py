"""A client that costs less than any server: blocking sockets, one reused buffer, bodies read and thrown away."""

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from benchmarks import BenchmarkError

Address = tuple[str, int]
READ_TIMEOUT_SECONDS = 120
BUFFER_SIZE = 256 * 1024  # fits a core's cache, so that throwing bytes away stays there
_MAX_CHUNK_LINE = 32


class Connection:
    """One keep-alive connection; `coding` is what it accepts beside a body as it is."""

    def __init__(self, address: Address, coding: str = "") -> None:
        self._socket = socket.create_connection(address, timeout=READ_TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Python's own time-out asks poll() before every read; the kernel's is free.
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", READ_TIMEOUT_SECONDS, 0))
        self._buffer = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        accepts = f"Accept-Encoding: {coding}\r\n" if coding else ""
        self._headers = f"Host: {address[0]}:{address[1]}\r\n{accepts}\r\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def get(self, target: str) -> bytes:
        """The body of a small answer that has a Content-Length."""
        headers, body = self._begin(target)
        length = _content_length(headers)
        if length is None:
            raise BenchmarkError(f"{target}: no Content-Length")
        while len(body) < length:
            body += self._view[: self._receive(self._view)]
        return body

    def drain(self, target: str) -> int:
        """Read a body of any length to its end; the number of bytes."""
        headers, body = self._begin(target)
        length = _content_length(headers)
        if length is None:
            return self._drain_chunks(body)
        left = length - len(body)
        while left > 0:
            left -= self._receive(self._view)
        return length

    def first_byte(self, target: str) -> float:
        """Seconds until the first byte of a body is there, which is then read to its end."""
        start = time.perf_counter()
        headers, body = self._begin(target)
        count = len(body) or self._receive(self._view)
        seconds = time.perf_counter() - start
        length = _content_length(headers)
        if length is None:
            raise BenchmarkError(f"{target}: no Content-Length")
        while count < length:
            count += self._receive(self._view)
        return seconds

    def begin(self, target: str) -> None:
        """Ask, read the first bytes of the answer, and leave the rest where it is."""
        self._begin(target)

    def _begin(self, target: str) -> tuple[bytes, bytes]:
        self._socket.sendall(f"GET {target} HTTP/1.1\r\n{self._headers}".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._view[: self._receive(self._view)]
        headers, _, body = data.partition(b"\r\n\r\n")
        if not headers.startswith(b"HTTP/1.1 200 "):
            raise BenchmarkError(f"{target}: {headers[:40]!r}")
        return headers.lower(), body

    def _receive(self, view: memoryview) -> int:
        count = self._socket.recv_into(view)
        if not count:
            raise BenchmarkError("the server cut the transfer")
        return count

    def _drain_chunks(self, body: bytes) -> int:
        total, line, data = 0, b"", memoryview(body)
        while True:
            head = bytes(data[:_MAX_CHUNK_LINE])
            end = head.find(b"\n") + 1
            if not end:
                line += head
                if len(line) >= _MAX_CHUNK_LINE:
                    raise BenchmarkError("neither Content-Length nor chunks")
                data = self._view[: self._receive(self._view)]
                continue
            size = int((line + head[:end]).split(b";")[0], 16)
            line = b""
            data = self._skip(data[end:], size + 2)
            total += size
            if not size:
                return total

    def _skip(self, data: memoryview, count: int) -> memoryview:
        """What is left of `data`, and of the socket, behind the next `count` bytes."""
        while len(data) < count:
            count -= len(data)
            data = self._view[: self._receive(self._view)]
        return data[count:]


def _content_length(headers: bytes) -> int | None:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    return None


def get_each(address: Address, targets: Sequence[str]) -> float:
    """Seconds to get every target in sequence over one connection."""
    with Connection(address) as connection:
        connection.get(targets[0])
        start = time.perf_counter()
        for target in targets:
            connection.get(target)
        return time.perf_counter() - start


def first_bytes(address: Address, targets: Sequence[str]) -> list[float]:
    """Seconds until the first byte of each target's body, one after the other over one connection."""
    with Connection(address) as connection:
        return [connection.first_byte(target) for target in targets]


def drain_all(address: Address, targets: Sequence[str], connections: int, coding: str = "") -> tuple[float, int]:
    """Seconds to download every target once, and the bytes, by workers that pull from one queue.

    Raises:
        BenchmarkError: a download fails.
    """
    queue = deque(targets)
    total = [0] * connections
    failures: list[Exception] = []
    begin = threading.Barrier(connections + 1)

    def work(number: int, connection: Connection) -> None:
        begin.wait()
        try:
            while not failures:
                total[number] += connection.drain(queue.popleft())
        except IndexError:
            return
        except (BenchmarkError, OSError, ValueError) as error:
            failures.append(error)

    with ExitStack() as stack:
        threads = [
            threading.Thread(target=work, args=(number, stack.enter_context(Connection(address, coding))))
            for number in range(connections)
        ]
        for thread in threads:
            thread.start()
        begin.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
    if failures:
        raise BenchmarkError(f"a download failed: {failures[0]}")
    return seconds, sum(total)
