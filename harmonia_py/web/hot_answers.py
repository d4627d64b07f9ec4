"""Answers that were made a moment ago and may be given again as they are: narinfos, and NARs that are open files."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from aiohttp import hdrs, web

from harmonia_py.cache.access import Tokens
from harmonia_py.cache.lasting import Lasting
from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.authorization import opens
from harmonia_py.web.coding import select
from harmonia_py.web.hot_file import ReadyFile

# What every answer says of the program; its version and libraries are nobody's business.
SERVER: Final = "harmonia-py"

# For so long an answer is given without asking again of which nobody knows how long it is right.
READY_SECONDS: Final = 2.0
# A narinfo takes about one KiB; this bounds a worker's memory, not what it can serve.
MAX_READY: Final = 8192
# A kept file stays open, and at hand, for so long after it was sent the slow way.
READY_FILE_SECONDS: Final = 60.0
MAX_READY_FILES: Final = 512

GET: Final = b"GET /"
VERSION: Final = b" HTTP/1.1\r\n"
END: Final = b"\r\n\r\n"
_NARINFO: Final = b".narinfo"
# No target that is ever ready is longer.
_MAX_TARGET: Final = 256

# Headers that do not change the answer, whatever their value. A request with any other goes the slow way.
_HARMLESS: Final = frozenset({b"user-agent", b"accept", b"accept-language", b"via"})
# Those that choose among the answers, and whether there is any.
_CHOOSING: Final = (b"host", b"accept-encoding", b"authorization")
# Clients send the same block of headers with every request, so it is looked at once.
_MAX_HEADER_BLOCKS: Final = 256
_MAX_HEADER_BLOCK_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class AskedNarinfo:
    """A request that only asks for a narinfo which is not ready.

    Attributes:
        hash_part: of its path.
        wanted: the coding that the client would have.
    """

    hash_part: HashPart
    wanted: str | None


@dataclass(frozen=True, slots=True)
class _Ready:
    head: bytes
    tail: bytes
    lasting: Lasting


class ReadyAnswers:
    """The answers of one worker that may be given again as they are: narinfos, and NARs that are open files."""

    def __init__(self, tokens: Tokens | None = None) -> None:
        self._tokens = tokens
        # By the coding and what follows `GET /`; the oldest expires first, or nearly so.
        self._narinfos: OrderedDict[tuple[str | None, bytes], _Ready] = OrderedDict()
        self._files: OrderedDict[bytes, tuple[float, ReadyFile]] = OrderedDict()
        self._purge: asyncio.TimerHandle | None = None
        # Header blocks that leave nothing to be asked, and the coding that each selects.
        self._blocks: dict[bytes, str | None] = {}
        self._date = b""
        self._date_second = 0

    def add(self, target: str, coding: str | None, response: web.Response, lasting: Lasting | None = None) -> None:
        """Remember the 200 that was made for `target` and a client that selects `coding`, not yet prepared.

        Without `lasting` it is given for `READY_SECONDS`.
        """
        body = response.body
        assert isinstance(body, bytes)
        head, tail = _headers(response.headers, len(body))
        now = time.monotonic()
        key = (coding, target.encode())
        self._narinfos[key] = _Ready(head, tail + body, lasting or Lasting(now + READY_SECONDS, ()))
        self._narinfos.move_to_end(key)
        while self._narinfos and (len(self._narinfos) > MAX_READY or self._oldest().expires <= now):
            self._narinfos.popitem(last=False)

    def _oldest(self) -> Lasting:
        return next(iter(self._narinfos.values())).lasting

    def add_file(self, target: str, headers: Mapping[str, str], file: FileSlice, download: Download) -> None:
        """Remember that the 200 for `target` is `file`. `download` keeps it open, and is ours from now on."""
        head, tail = _headers(headers, file.size)
        self._drop_file(target.encode())
        self._files[target.encode()] = (
            time.monotonic() + READY_FILE_SECONDS,
            ReadyFile(head, tail, file, download, is_coded_for_some=hdrs.VARY in headers),
        )
        if len(self._files) > MAX_READY_FILES:
            self._drop_file(next(iter(self._files)))
        if self._purge is None:
            self._purge = asyncio.get_running_loop().call_later(READY_FILE_SECONDS, self._purge_files)

    def clear(self, tokens: Tokens | None = None) -> None:
        """Forget every answer: the cache behind them is another one now, and so are the `tokens` that open it."""
        self._tokens = tokens
        self._blocks.clear()
        self._narinfos.clear()
        while self._files:
            self._drop_file(next(iter(self._files)))
        if self._purge is not None:
            self._purge.cancel()
            self._purge = None

    def find(self, request: bytes) -> bytes | ReadyFile | AskedNarinfo | None:
        """The whole answer to `request`, the file that is its body, or what it asks for; None for the slow way."""
        end = request.find(VERSION, len(GET), _MAX_TARGET)
        target = request[len(GET) : end]
        headers = request[end + len(VERSION) :]
        if end < 0 or (headers not in self._blocks and not self._is_harmless(headers)):
            return None
        narinfo = self._narinfos.get((self._blocks[headers], target))
        if narinfo is not None and narinfo.lasting.holds(time.monotonic()):
            return b"".join((narinfo.head, self.date(), narinfo.tail))
        if target.endswith(_NARINFO):
            return self._asked(target, self._blocks[headers])
        file = self._files.get(target)
        if file is None or (file[1].is_coded_for_some and self._blocks[headers] is not None):
            return None
        return file[1]

    @staticmethod
    def _asked(target: bytes, wanted: str | None) -> AskedNarinfo | None:
        try:
            return AskedNarinfo(HashPart.parse(target[: -len(_NARINFO)].decode()), wanted)
        except (FormatError, UnicodeDecodeError):
            return None

    def write(self, response: web.Response) -> bytes:
        """All of `response`, which has bytes or nothing as its body, as it goes over the wire."""
        body = response.body
        assert isinstance(body, bytes)
        head, tail = _headers(response.headers, len(body), response.status, response.reason)
        return b"".join((head, self.date(), tail, body))

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
        """Whether `block` is the header lines of one whole request, its last bytes, which asks for what is ready.

        It is not when something in it may change the answer in another way than its coding does, and when it does not
        open this cache.
        """
        if len(block) > _MAX_HEADER_BLOCK_BYTES or block.find(END) != len(block) - len(END):
            return False
        chosen: dict[bytes, str] = {}
        for line in block[: -len(END)].split(b"\r\n"):
            name, colon, value = line.partition(b":")
            name = name.lower()
            if not colon or not value.isascii() or not value.decode().isprintable() or name in chosen:
                return False
            if name in _CHOOSING:
                chosen[name] = value.decode().strip()
            elif name not in _HARMLESS:
                return False
        if b"host" not in chosen:
            return False
        if self._tokens is not None and not opens(self._tokens, chosen.get(b"authorization")):
            return False
        if len(self._blocks) >= _MAX_HEADER_BLOCKS:
            self._blocks.clear()
        self._blocks[block] = select(chosen.get(b"accept-encoding", ""))
        return True


def _headers(
    headers: Mapping[str, str], size: int, status: int = 200, reason: str | None = "OK"
) -> tuple[bytes, bytes]:
    """Status line and headers in the framework's order: what stands before the value of `Date`, and after it."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = "".join([f"HTTP/1.1 {status} {reason}\r\n", *lines, f"Content-Length: {size}\r\nDate: "])
    return head.encode(), f"\r\nServer: {SERVER}\r\n\r\n".encode()
