"""Answers that were made a moment ago and may be given again as they are: narinfos, and NARs that are open files."""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Final, NamedTuple

from aiohttp import hdrs, web
from msgspec import Struct

from harmonia_py.cache.access import Action, Generation, Principal
from harmonia_py.cache.caches import Caches, NamedCache
from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.cache.validity import Validity
from harmonia_py.errors import FormatError
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import HASH_PART, HashPart
from harmonia_py.web.admission.authorization import Principals
from harmonia_py.web.fast.header_blocks import HeaderBlock, HeaderBlocks
from harmonia_py.web.fast.ready_file import ReadyFile
from harmonia_py.web.fast.ready_files import ReadyFiles
from harmonia_py.web.http.errors import not_found

# The header `Server`. It does not name the version and the libraries, which would help an attacker only.
SERVER: Final = "harmonia-py"

# An answer whose validity is not known is given for so long without asking the source again.
READY_SECONDS: Final = 2.0
# A narinfo takes about one KiB; this bounds a worker's memory, not what it can serve.
MAX_READY: Final = 8192

GET: Final = b"GET /"
VERSION: Final = b" HTTP/1.1\r\n"
_NARINFO_SUFFIX: Final = b".narinfo"
_NARINFO: Final = re.compile(rb"(?:([^/]+)/)?(%b)\.narinfo" % HASH_PART.pattern.encode())
_NAR: Final = re.compile(r"(?:(?P<cache>[^/]+)/)?nar/(?P<file_name>[^/]+)", re.ASCII)
# No target that is ever ready is longer.
_MAX_TARGET: Final = 256


class NarinfoRequest(Struct, frozen=True):
    """A request that only asks for a narinfo which is not ready.

    Attributes:
        cache: the cache in the URL, which the client may read.
        hash_part: of the narinfo's path.
        coding: the one that the client prefers; None for the body as it is.
        target: what follows `GET /`.
    """

    cache: NamedCache
    hash_part: HashPart
    coding: str | None
    target: str


class NarRequest(Struct, frozen=True):
    """A request for a compressed NAR whose file is not ready.

    Attributes:
        cache: the cache in the URL, which the client may read.
        url: of the NAR.
        target: what follows `GET /`.
    """

    cache: NamedCache
    url: NarUrl
    target: str


class Absent(NamedTuple):
    """The whole answer to a request for a narinfo of which it is known that it is not there."""

    answer: bytes


Answer = bytes | ReadyFile | Absent | NarinfoRequest | NarRequest
"""The whole answer to a request, or the file that is its body, or the narinfo or the file that has to be found."""


class _Ready(Struct, frozen=True):
    cache: NamedCache
    head: bytes
    tail: bytes
    validity: Validity


class ReadyAnswers:
    """The answers of one worker that may be given again as they are: narinfos, and NARs that are open files.

    Answers are kept by what follows `GET /`, which has the name of the cache in it. Each answer notes its cache, and is
    given to clients that may read that cache.

    Args:
        generation: of access.
        caches: the caches that answer.
        principals: finds the principal of a request.
        forget_what_is_old: is called before an answer is looked for under another generation than the last one.
    """

    def __init__(
        self,
        generation: Generation,
        caches: Caches,
        principals: Principals,
        forget_what_is_old: Callable[[], None],
    ) -> None:
        self._generation = generation
        self._cells = generation.cells
        self._seen = generation.seen
        self._forget_what_is_old = forget_what_is_old
        self._caches = caches
        # By the coding and what follows `GET /`; the oldest expires first, or nearly so.
        self._narinfos: OrderedDict[tuple[str | None, bytes], _Ready] = OrderedDict()
        self._files = ReadyFiles()
        self._blocks = HeaderBlocks(principals)
        self._absent = _whole(not_found())
        self._date = b""
        self._date_until = 0.0  # by `time.monotonic`

    def add(
        self,
        cache: NamedCache,
        target: str,
        coding: str | None,
        response: web.Response,
        validity: Validity | None = None,
    ) -> None:
        """Remember the 200 of `cache` that was made for `target` and a client that selects `coding`, not yet prepared.

        Without `validity` it is given for `READY_SECONDS`.
        """
        body = response.body
        assert isinstance(body, bytes)
        head, tail = _headers(response.headers, len(body))
        now = time.monotonic()
        key = (coding, target.encode())
        self._narinfos[key] = _Ready(cache, head, tail + body, validity or Validity(now + READY_SECONDS, ()))
        self._narinfos.move_to_end(key)
        while self._narinfos and (len(self._narinfos) > MAX_READY or self._oldest().expires <= now):
            self._narinfos.popitem(last=False)

    def _oldest(self) -> Validity:
        return next(iter(self._narinfos.values())).validity

    def add_file(
        self, cache: NamedCache, target: str, headers: Mapping[str, str], file: FileSlice, download: Download
    ) -> ReadyFile:
        """Remember that `cache` answers `target` with `file`, for as long as the download is valid.

        `download` keeps the file open; the ready file, which is returned, owns it from now on.
        """
        head, tail = _headers(headers, file.size)
        ready = ReadyFile(head, tail, file, download, is_coded_for_some=hdrs.VARY in headers)
        self._files.add(target.encode(), cache, download.validity, ready)
        return ready

    def replace(self, generation: Generation, caches: Caches, principals: Principals) -> None:
        """Serve from `caches` and for `principals` from now on, and forget every answer of the caches before."""
        self._generation = generation
        self._cells = generation.cells
        self._caches = caches
        self.clear()
        self._blocks = HeaderBlocks(principals)

    def take_used(self) -> list[Principal]:
        """The principals that were given answers since the last call."""
        return self._blocks.take_used()

    def clear(self) -> None:
        """Forget every answer, and what the header blocks of requests mean."""
        self._blocks.clear()
        self._narinfos.clear()
        self._files.clear()
        self._seen = self._generation.seen

    def find(self, request: bytes) -> tuple[NamedCache, Answer] | None:
        """The cache that answers `request`, and its answer.

        None for a request that the framework must answer.
        """
        if self._cells[0] != self._seen:  # as `has_changed`, whose call would take longer than this
            self._forget_what_is_old()
        end = request.find(VERSION, len(GET), _MAX_TARGET)
        if end < 0:
            return None
        target = request[len(GET) : end]
        headers = request[end + len(VERSION) :]
        block = self._blocks.known.get(headers) or self._blocks.look_at(headers)
        now = time.monotonic()
        if block is None or now >= block.expires:
            return None
        block.used = True
        narinfo = self._narinfos.get((block.coding, target))
        if narinfo is not None and narinfo.validity.holds(now):
            # `_may_read` would look first into the same set: the call would be a twentieth of the work for this answer.
            may_read = narinfo.cache in block.caches or self._may_read(block, narinfo.cache)
            date = self._date if now < self._date_until else self.date()
            return (narinfo.cache, b"".join((narinfo.head, date, narinfo.tail))) if may_read else None
        if target.endswith(_NARINFO_SUFFIX):
            return self._narinfo_request(target, block, now)
        ready = self._files.get(target)
        if ready is None:
            return self._nar_request(target, block)
        is_given = ready.is_for(block.coding, now) and self._may_read(block, ready.cache)
        return (ready.cache, ready.file) if is_given else None

    def _narinfo_request(self, target: bytes, block: HeaderBlock, now: float) -> tuple[NamedCache, Answer] | None:
        match = _NARINFO.fullmatch(target)
        if match is None:
            return None
        name, hash_part = match.groups()
        cache = self._cache("" if name is None else name.decode(errors="replace"), block)
        if cache is None:
            return None
        if cache.cache.surely_lacks is not None and cache.cache.surely_lacks(hash_part):
            date = self._date if now < self._date_until else self.date()
            return cache, Absent(b"".join((self._absent[0], date, self._absent[1])))
        return cache, NarinfoRequest(cache, HashPart(hash_part.decode()), block.coding, target.decode())

    def _nar_request(self, target: bytes, block: HeaderBlock) -> tuple[NamedCache, Answer] | None:
        path, _, query = target.decode(errors="replace").partition("?")
        match = _NAR.fullmatch(path)
        if match is None or query:
            return None
        try:
            url = NarUrl.parse(match["file_name"])
        except FormatError:
            return None
        # A NAR as it is may be sent in a coding; and of the local store it is made of many files.
        cache = None if url.compression == "none" else self._cache(match["cache"] or "", block)
        return None if cache is None else (cache, NarRequest(cache, url, target.decode()))

    def _cache(self, name: str, block: HeaderBlock) -> NamedCache | None:
        """The cache of this name, if it is remembered and the client may read it."""
        cache = self._caches.known(name) if name else self._caches.default
        return cache if cache is not None and (cache in block.caches or self._may_read(block, cache)) else None

    @staticmethod
    def _may_read(block: HeaderBlock, cache: NamedCache) -> bool:
        """Whether the client may read the cache; when it may not, the framework's way tells it."""
        if cache in block.caches:
            return True
        if not cache.allows(block.principal, Action.READ):
            return False
        block.caches.add(cache)
        return True

    def write(self, response: web.Response) -> bytes:
        """All of `response`, which has bytes or nothing as its body, as it goes over the wire."""
        before, after = _whole(response)
        return b"".join((before, self.date(), after))

    def date(self) -> bytes:
        """The value of the header `Date`."""
        now = time.monotonic()
        if now >= self._date_until:
            seconds = time.time()
            self._date_until = now + 1 - seconds % 1
            self._date = formatdate(int(seconds), usegmt=True).encode()
        return self._date


def _whole(response: web.Response) -> tuple[bytes, bytes]:
    """The bytes on the wire before the value of `Date`, and those after it."""
    body = response.body
    assert isinstance(body, bytes)
    head, tail = _headers(response.headers, len(body), response.status, response.reason)
    return head, tail + body


def _headers(
    headers: Mapping[str, str], size: int, status: int = 200, reason: str | None = "OK"
) -> tuple[bytes, bytes]:
    """Status line and headers in the framework's order, split at the value of `Date`."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = "".join([f"HTTP/1.1 {status} {reason}\r\n", *lines, f"Content-Length: {size}\r\nDate: "])
    return head.encode(), f"\r\nServer: {SERVER}\r\n\r\n".encode()
