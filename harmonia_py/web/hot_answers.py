"""Answers that were made a moment ago and may be given again as they are: narinfos, and NARs that are open files."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from aiohttp import web

from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.web.hot_file import ReadyFile

# What every answer says of the program; its version and libraries are nobody's business.
SERVER: Final = "harmonia-py"

# For so long an answer is given without asking again: a collected path stops being offered within this time.
READY_SECONDS: Final = 2.0
# A narinfo takes about one KiB; this bounds a worker's memory, not what it can serve.
MAX_READY: Final = 8192
# A kept file stays open, and at hand, for so long after it was sent the slow way.
READY_FILE_SECONDS: Final = 60.0
MAX_READY_FILES: Final = 512

GET: Final = b"GET /"
VERSION: Final = b" HTTP/1.1\r\n"
END: Final = b"\r\n\r\n"
# No target that is ever ready is longer.
_MAX_TARGET: Final = 256

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
    """The answers of one worker that may be given again as they are: narinfos, and NARs that are open files."""

    def __init__(self) -> None:
        # By what follows `GET /`. Answers of a kind live equally long, so the oldest is the first to expire.
        self._narinfos: OrderedDict[bytes, _Ready] = OrderedDict()
        self._files: OrderedDict[bytes, tuple[float, ReadyFile]] = OrderedDict()
        self._purge: asyncio.TimerHandle | None = None
        self._harmless_blocks: set[bytes] = set()
        self._date = b""
        self._date_second = 0

    def add(self, target: str, response: web.Response) -> None:
        """Remember the 200 that was made for `target`, before the framework prepares it."""
        body = response.body
        assert isinstance(body, bytes)
        head, tail = _headers(response.headers, len(body))
        now = time.monotonic()
        key = target.encode()
        self._narinfos[key] = _Ready(head, tail + body, now + READY_SECONDS)
        self._narinfos.move_to_end(key)
        while len(self._narinfos) > MAX_READY or next(iter(self._narinfos.values())).expires <= now:
            self._narinfos.popitem(last=False)

    def add_file(self, target: str, headers: Mapping[str, str], file: FileSlice, download: Download) -> None:
        """Remember that the 200 for `target` is `file`. `download` keeps it open, and is ours from now on."""
        head, tail = _headers(headers, file.size)
        self._drop_file(target.encode())
        self._files[target.encode()] = time.monotonic() + READY_FILE_SECONDS, ReadyFile(head, tail, file, download)
        if len(self._files) > MAX_READY_FILES:
            self._drop_file(next(iter(self._files)))
        if self._purge is None:
            self._purge = asyncio.get_running_loop().call_later(READY_FILE_SECONDS, self._purge_files)

    def clear(self) -> None:
        """Forget every answer: the cache behind them is another one now, or there is none any more."""
        self._narinfos.clear()
        while self._files:
            self._drop_file(next(iter(self._files)))
        if self._purge is not None:
            self._purge.cancel()
            self._purge = None

    def find(self, request: bytes) -> bytes | ReadyFile | None:
        """The whole answer to `request`, or the file that is its body; None when it must go the slow way."""
        end = request.find(VERSION, len(GET), _MAX_TARGET)
        target = request[len(GET) : end]
        narinfo = self._narinfos.get(target)
        file = self._files.get(target) if narinfo is None else None
        if narinfo is None and file is None:
            return None
        headers = request[end + len(VERSION) :]
        if headers not in self._harmless_blocks and not self._is_harmless(headers):
            return None
        if narinfo is None:
            return None if file is None else file[1]
        return None if narinfo.expires <= time.monotonic() else b"".join((narinfo.head, self.date(), narinfo.tail))

    def date(self) -> bytes:
        """The value of the header `Date`."""
        second = int(time.time())
        if second != self._date_second:
            self._date_second = second
            self._date = formatdate(second, usegmt=True).encode()
        return self._date

    def _drop_file(self, key: bytes) -> None:
        found = self._files.pop(key, None)
        if found is not None:
            found[1].leave()

    def _purge_files(self) -> None:
        """Let go of files after a while, so that what is evicted meanwhile frees the disk."""
        self._purge = None
        now = time.monotonic()
        while self._files and next(iter(self._files.values()))[0] <= now:
            self._drop_file(next(iter(self._files)))
        if self._files:
            delay = next(iter(self._files.values()))[0] - now
            self._purge = asyncio.get_running_loop().call_later(delay, self._purge_files)

    def _is_harmless(self, block: bytes) -> bool:
        """Whether `block` is the header lines of one whole request, its last bytes, and changes nothing."""
        if len(block) > _MAX_HEADER_BLOCK_BYTES or block.find(END) != len(block) - len(END):
            return False
        names = []
        for line in block[: -len(END)].split(b"\r\n"):
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


def _headers(headers: Mapping[str, str], size: int) -> tuple[bytes, bytes]:
    """Status line and headers in the framework's order: what stands before the value of `Date`, and after it."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = "".join(["HTTP/1.1 200 OK\r\n", *lines, f"Content-Length: {size}\r\nDate: "])
    return head.encode(), f"\r\nServer: {SERVER}\r\n\r\n".encode()
