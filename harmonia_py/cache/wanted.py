"""The files that a mirror fetches: which upstream is asked for one, and what it is held against when it comes."""

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from harmonia_py.cache.asking import Answer, Asked, Nobody, Outcome, Panel
from harmonia_py.cache.file_check import FileCheck
from harmonia_py.cache.remembered import Remembered
from harmonia_py.cache.unpack import MADE_HERE, NarCheck, Unpacker
from harmonia_py.cache.upstream import Body, Resume, Upstream
from harmonia_py.errors import FormatError, UpstreamError, UpstreamProtocolError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo

# The log of a build may have gigabytes; nobody reads it then.
_MAX_DOCUMENT_BYTES: Final = 1024 * 1024 * 1024
_ENCODINGS: Final = {None: "none", "br": "br", "gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd", "xz": "xz"}


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a mirror is told of a NAR, and asked.

    Attributes:
        narinfo: asks one upstream for its narinfo of the path.
        arrived: the file is kept.
        forget: the file proved to be wrong.
    """

    narinfo: Callable[[Upstream], Awaitable[NarInfo | None]]
    arrived: Callable[[Remembered], Awaitable[None]]
    forget: Callable[[Remembered], None]


class Grudges:
    """Upstreams that sent a wrong file: they are not asked for it again for a while, so that a retry gets another."""

    _SECONDS = 60.0
    _MAX = 1024

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], float] = {}

    def hold(self, upstream: str, url: str) -> None:
        """The file at this URL of this upstream was wrong."""
        while len(self._until) >= self._MAX:
            del self._until[next(iter(self._until))]
        self._until[upstream, url] = time.monotonic() + self._SECONDS

    def holds(self, upstream: str, url: str) -> bool:
        """Whether that was a moment ago."""
        return self._until.get((upstream, url), 0.0) > time.monotonic()


class WantedNar:
    """The file of a NAR, at the upstream whose narinfo was served, or at another one that has the same NAR.

    Args:
        entry: what was served.
        offered: the compression of the file that is wanted, which is made of the upstream's when that has another.
        panel: every upstream.
        hooks: see there.
        grudges: are remembered when something is wrong with the file.
        seconds: that an upstream has to begin.
    """

    def __init__(
        self,
        entry: Remembered,
        offered: str,
        *,
        panel: Panel,
        hooks: Hooks,
        grudges: Grudges,
        seconds: float,
    ) -> None:
        self._offered = offered
        self.entry = entry
        self._panel = panel
        self._hooks = hooks
        self._grudges = grudges
        self._seconds = seconds
        self._chosen: Asked | None = None
        self._narinfo = entry.narinfo

    @property
    def expected_size(self) -> int | None:
        """See `Wanted`."""
        return self._narinfo.file_size

    @property
    def as_it_comes(self) -> bool:
        """See `Wanted`."""
        return self._offered == self._narinfo.compression

    @property
    def room(self) -> int:
        """What the file takes at most, more or less."""
        narinfo = self.entry.narinfo
        known = narinfo.file_size if self._offered == narinfo.compression else None
        return known or narinfo.path_info.nar_size

    def check(self) -> FileCheck:
        """See `Wanted`."""
        # What is served and kept is the first narinfo; of another upstream there is only the file.
        narinfo, info = self._narinfo, self.entry.narinfo.path_info
        return NarCheck(info, narinfo.compression, narinfo.file_hash, narinfo.file_size, self._offered)

    async def open(self, resume: Resume | None) -> Body | None:
        """See `Wanted`.

        Raises:
            Nobody: an upstream that should have it cannot tell.
            UpstreamError: there is no way to resume.
        """
        if self._chosen is not None:
            return await self._chosen.upstream.open(self._narinfo.url, resume)
        unknown = False
        for asked in self._order():
            answer = await self._try(asked)
            if isinstance(answer, Answer):
                self._chosen = asked
                return answer.value
            unknown = unknown or answer is Outcome.UNKNOWN
        if unknown:
            raise Nobody(f"no upstream gives the NAR of {self.entry.narinfo.path_info.store_path}")
        # Collected there: a narinfo that leads to nothing is the worst that a cache can have.
        self._hooks.forget(self.entry)
        return None

    def blame(self, error: UpstreamError) -> None:
        """See `Wanted`."""
        if self._chosen is not None:
            # What the upstream said of the file may be what is wrong.
            self._hooks.forget(self.entry)
            self._grudges.hold(self._chosen.upstream.name, self._narinfo.url)
            self._panel.charge(self._chosen, error)

    async def arrived(self) -> None:
        """See `Wanted`."""
        await self._hooks.arrived(self.entry)

    def _order(self) -> Iterator[Asked]:
        first = self._panel.find(self.entry.upstream)
        if first is not None:
            yield first
        for asked in self._panel.all:
            if asked is not first:
                yield asked

    async def _try(self, asked: Asked) -> Answer[Body] | Outcome:
        narinfo = self.entry.narinfo
        if asked.upstream.name != self.entry.upstream:
            other = await self._panel.ask_one(asked, self._hooks.narinfo, self._seconds)
            if not isinstance(other, Answer):
                return other
            if not self._is_as_good(other.value):
                return Outcome.ABSENT
            narinfo = other.value
        if self._grudges.holds(asked.upstream.name, narinfo.url):
            return Outcome.UNKNOWN
        answer = await self._panel.ask_one(asked, lambda upstream: _open_plain(upstream, narinfo.url), self._seconds)
        self._narinfo = narinfo
        return answer

    def _is_as_good(self, other: NarInfo) -> bool:
        """Whether the file that is wanted can be made of this one."""
        same_nar = other.path_info.nar_hash == self.entry.narinfo.path_info.nar_hash
        return same_nar and can_become(other.compression, self._offered)


def can_become(compression: str, offered: str) -> bool:
    """Whether a file can be offered in another compression than it comes in."""
    return offered == compression or offered in MADE_HERE


async def _open_plain(upstream: Upstream, url: str) -> Body | None:
    body = await upstream.open(url)
    if body is not None and body.encoding is not None:
        body.close()
        raise UpstreamProtocolError(f"its NAR has the Content-Encoding {body.encoding}")
    return body


class WantedDocument:
    """A log or a listing: nothing is known of it beforehand, and any upstream's is good.

    Caches keep them encoded, and send them so to everybody: cache.nixos.org with brotli. Here they are kept as they
    are read, and whoever serves them encodes them for clients that accept it.
    """

    def __init__(self, panel: Panel, url: str) -> None:
        self._panel = panel
        self._url = url
        self._chosen: Upstream | None = None
        self._compression = "none"

    @property
    def expected_size(self) -> int | None:
        """See `Wanted`."""
        return None

    @property
    def as_it_comes(self) -> bool:
        """See `Wanted`."""
        return self._compression == "none"

    @property
    def room(self) -> int:
        """Nobody knows."""
        return 0

    def check(self) -> FileCheck:
        """See `Wanted`."""
        return DocumentCheck(self._compression)

    async def open(self, resume: Resume | None) -> Body | None:
        """See `Wanted`."""
        if self._chosen is not None:
            return await self._chosen.open(self._url, resume)
        answer = await self._panel.ask(lambda upstream: upstream.open(self._url), lambda body: body.close())
        if answer is None:
            return None
        body = answer.value
        self._chosen = answer.upstream
        self._compression = _ENCODINGS.get(body.encoding, "")
        if not self._compression:
            body.close()
            raise UpstreamProtocolError(f"it sent a document with the Content-Encoding {body.encoding}")
        return body

    def blame(self, error: UpstreamError) -> None:
        """See `Wanted`. A document that cannot be read to its end is nobody's fault."""

    async def arrived(self) -> None:
        """See `Wanted`."""


class DocumentCheck(FileCheck):
    """Decodes a document, and computes its hash, which becomes its validator."""

    def __init__(self, compression: str = "none") -> None:
        super().__init__()
        self._unpacker = Unpacker(compression)
        self._digest = hashlib.sha256()
        self._taken = 0
        self._size = 0

    def _portions(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        self._taken += len(data)
        for portion in self._unpacker.feed(data):
            self._size += len(portion)
            if self._size > _MAX_DOCUMENT_BYTES:
                raise FormatError("it is far too long")
            self._digest.update(portion)
            yield portion
        # Streams of nothing may come for ever.
        if self._taken > _MAX_DOCUMENT_BYTES:
            raise FormatError("it is far too long")

    def _last(self) -> bytes:
        if not self._unpacker.is_whole:
            raise FormatError("it ends too early")
        return b""

    def metadata(self) -> Mapping[str, str]:
        """What is kept with it."""
        return {"file_hash": str(Hash("sha256", self._digest.digest()))}
