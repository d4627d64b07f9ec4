"""What a server process holds, seen from outside, and clients that do what no library does.

before = Held.by(worker)                    # descriptors, threads, memory of a process, as /proc tells
await_return(worker, before)                # returns when it holds no more than before; else says what is left

with Raw(server.port, receive_buffer=4096) as client:      # a blocking socket
    client.ask("/nar/…", "Range: bytes=0-9")
    status, headers = client.head()
    client.read(1000); client.leave()       # leave: reset the connection, as a client that is killed
    body = client.body(headers)             # all of it; Cut when the server ended it before
"""

import os
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPMessage, parse_headers
from io import BytesIO
from pathlib import Path
from typing import Final, Self

from zstd_library import zstd

from harmonia_py.nix.hashes import Hash

TIME_LIMIT: Final = 30.0
# What Python's and libc's allocators may keep of what has been freed.
MEMORY_TOLERANCE: Final = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Held:
    """Attributes: what each descriptor leads to; threads; bytes of memory that are this process's own."""

    descriptors: tuple[str, ...]
    threads: int
    memory: int

    @classmethod
    def by(cls, process: int) -> Self:
        return cls(
            tuple(sorted(_links(process))), len(list(Path(f"/proc/{process}/task").iterdir())), memory_of(process)
        )


def _kinds(held: Held) -> Counter[str]:
    """How many descriptors lead to what: files by name, sockets and pipes together."""
    return Counter(link.partition(":[")[0] for link in held.descriptors)


def _links(process: int) -> list[str]:
    links = []
    for fd in Path(f"/proc/{process}/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except FileNotFoundError:
            continue
    return links


def memory_of(process: int) -> int:
    """Bytes that no other process shares with it: what its end would free."""
    fields = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in fields if line.startswith("Private_"))


def await_return(process: int, before: Held, *, descriptors: int = 0, threads: int = 0) -> Held:
    """Return when `process` holds what it held before, but for so many descriptors and threads.

    What was closed meanwhile makes up for no other descriptor that is open now.
    """
    deadline = time.monotonic() + TIME_LIMIT
    while True:
        now = Held.by(process)
        if (
            (_kinds(now) - _kinds(before)).total() <= descriptors
            and now.threads <= before.threads + threads
            and now.memory <= before.memory + MEMORY_TOLERANCE
        ):
            return now
        left = f"{now.threads} threads, {before.threads} before; {now.memory >> 20} MiB, {before.memory >> 20} before; "
        assert time.monotonic() < deadline, left + "\n".join(now.descriptors)
        time.sleep(0.02)


class ResponseAborted(Exception):
    """The answer ended before its end."""


class Raw:
    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIME_LIMIT)
        try:
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise
        self._begun = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def leave(self) -> None:
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def ask(self, target: str, *headers: str, method: str = "GET", version: str = "1.1") -> None:
        self.send("\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *headers, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, most: int = 65536) -> bytes:
        """What has come; nothing at the end. A connection that is reset raises Cut."""
        if self._begun:
            data, self._begun = self._begun[:most], self._begun[most:]
            return data
        try:
            return self.socket.recv(most)
        except ConnectionError as error:
            raise ResponseAborted from error

    def head(self) -> tuple[int, HTTPMessage]:
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.read()
            if not more:
                raise ResponseAborted
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        self._begun = rest + self._begun
        status_line, _, fields = head.partition(b"\r\n")
        return int(status_line.split()[1]), parse_headers(BytesIO(fields + b"\r\n\r\n"))

    def exactly(self, count: int) -> bytes:
        parts = []
        while count:
            data = self.read(min(count, 1 << 20))
            if not data:
                raise ResponseAborted
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def line(self) -> bytes:
        data = b""
        while not data.endswith(b"\r\n"):
            data += self.exactly(1)
        return data[:-2]

    def body(self, headers: HTTPMessage) -> bytes:
        if headers["Transfer-Encoding"] != "chunked":
            return self.exactly(int(headers["Content-Length"]))
        chunks = []
        while size := int(self.line(), 16):
            chunks.append(self.exactly(size))
            assert self.exactly(2) == b"\r\n"
        assert self.exactly(2) == b"\r\n"
        return b"".join(chunks)

    def body_hash(self, headers: HTTPMessage) -> Hash:
        """The hash of a body that is too large for memory."""
        left, digest = int(headers["Content-Length"]), sha256()
        while left:
            data = self.read(min(left, 1 << 20))
            if not data:
                raise ResponseAborted
            digest.update(data)
            left -= len(data)
        return Hash("sha256", digest.digest())

    def discard(self, headers: HTTPMessage) -> bool:
        """Whether the body is as long as it should be; the kernel throws it away, so that only the server works."""
        left = int(headers["Content-Length"]) - len(self._begun)
        while left and (count := len(self.socket.recv(min(left, 1 << 20), socket.MSG_TRUNC))):
            left -= count
        return left == 0


def random_file(path: Path, size: int) -> Path:
    """A file that no compression makes smaller."""
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - start)))
    return path


def decompressed(data: bytes) -> bytes:
    """The bytes of a whole zstd file."""
    return zstd.decompress(data)
