"""NARs as files that a mirror fetches: the choice of the upstream, and the check when the file comes."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from harmonia_py.contents.codecs import memory_of
from harmonia_py.contents.encoders import ENCODER_BYTES, encoder
from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.incoming import Lane
from harmonia_py.contents.nar_check import NarCheck
from harmonia_py.errors import UpstreamError, UpstreamProtocolError
from harmonia_py.mirror.asking import NarinfoQuestions, offers
from harmonia_py.mirror.indexed_narinfo import IndexedNarInfo
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.mirror.outcome import Outcome, check_absent
from harmonia_py.mirror.upstream import Body, Resume, Upstream
from harmonia_py.mirror.upstream_file import UpstreamFile
from harmonia_py.mirror.upstreams import Answer, Upstreams, UpstreamState
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.runtime.bounded import TimedSet

Arrived = Callable[[IndexedNarInfo, NarUrl, Mapping[str, str]], Awaitable[None]]
"""Told that the file of a URL is kept, with these metadata."""

BadFiles = TimedSet[tuple[str, str]]
"""Wrong files, by the name of the upstream and the URL. The upstream is not asked for such a file again for a while, so
that a retry gets that of another."""

BAD_FILES: Final = 1024
_BAD_SECONDS: Final = 60.0
# Within this time an upstream has to begin a NAR.
_BEGIN_SECONDS: Final = 15.0


class NarDownload(UpstreamFile):
    """The file of a NAR, at the upstream whose narinfo was served, or at another one that has the same NAR.

    Args:
        entry: the narinfo that was served.
        url: of the file that is wanted; it is made of the upstream's when that has another compression.
        lane: the threads and turns by which it comes in.
        counters: of downloads.
        upstreams: every upstream.
        questions: ask another upstream for its narinfo of the path.
        index: forgets the narinfo when it leads to no right file.
        arrived: told when the file is kept.
        bad_files: notes the file when it is wrong.
    """

    def __init__(
        self,
        entry: IndexedNarInfo,
        url: NarUrl,
        lane: Lane,
        counters: MirrorCounters,
        *,
        upstreams: Upstreams,
        questions: NarinfoQuestions,
        index: NarinfoIndex,
        arrived: Arrived,
        bad_files: BadFiles,
    ) -> None:
        super().__init__(lane, counters)
        self._url = url
        self._entry = entry
        self._upstreams = upstreams
        self._questions = questions
        self._index = index
        self._arrived = arrived
        self._bad_files = bad_files
        self._chosen: UpstreamState | None = None
        self._check: NarCheck | None = None
        self._narinfo = entry.narinfo
        self.size = entry.narinfo.file_size if self._as_it_comes else None

    def __str__(self) -> str:
        return str(self._entry.narinfo.path_info.store_path)

    @property
    def room(self) -> int:
        """About how many bytes the file takes at most."""
        return self.size or self._narinfo.path_info.nar_size

    def check(self) -> FileCheck:
        """The check of the served NAR, in a file as the narinfo of the chosen upstream claims it."""
        narinfo, info = self._narinfo, self._entry.narinfo.path_info
        made = None if self._as_it_comes else encoder(self._url.compression)
        claims = info, narinfo.compression, narinfo.file_hash, narinfo.file_size
        self._check = NarCheck(*claims, encoder=made, share=self._share)
        return self._check

    async def kept(self) -> None:
        """Tell the mirror that the file is kept."""
        await super().kept()
        assert self._check is not None
        await self._arrived(self._entry, self._url, self._check.metadata())

    @property
    def _memory(self) -> int:
        made = 0 if self._as_it_comes else ENCODER_BYTES
        return made + memory_of(self._narinfo.compression, self._narinfo.path_info.nar_size)

    @property
    def _as_it_comes(self) -> bool:
        """Whether the offered file is the upstream's, and not one made of it."""
        return self._url.compression == self._narinfo.compression

    def _agreed_size(self, body: Body) -> int | None:
        expected = self._narinfo.file_size
        if body.size is not None and expected is not None and body.size != expected:
            raise UpstreamProtocolError(f"its NAR has {body.size} bytes, its narinfo says {expected}")
        return (expected if body.size is None else body.size) if self._as_it_comes else None

    async def _open(self, resume: Resume | None) -> Body | None:
        """The file, or the rest of it.

        Raises:
            NoUpstreamAnswered: an upstream that should have it cannot tell.
            Overloaded: an upstream that should have it was not asked.
            UpstreamError: there is no way to resume.
        """
        if self._chosen is not None:
            return await self._chosen.upstream.open(self._narinfo.url, resume)
        outcomes = []
        for state in self._order():
            answer = await self._try(state)
            if isinstance(answer, Answer):
                self._chosen = state
                return answer.value
            outcomes.append(answer)
        check_absent(outcomes, f"no upstream gives the NAR of {self}")
        # The upstream has collected it: a narinfo that leads to no file is the worst that a cache can give.
        self._index.forget(self._url.hash_part)
        return None

    def _blame(self, error: UpstreamError) -> None:
        if self._chosen is not None:
            # The narinfo may be wrong, and not the file.
            self._index.forget(self._url.hash_part)
            self._bad_files.add((self._chosen.upstream.name, self._narinfo.url), _BAD_SECONDS)
            self._upstreams.charge(self._chosen, error)

    def _order(self) -> Iterator[UpstreamState]:
        first = self._upstreams.find(self._entry.upstream)
        if first is not None:
            yield first
        for state in self._upstreams.all:
            if state is not first:
                yield state

    async def _try(self, state: UpstreamState) -> Answer[Body] | Outcome:
        narinfo = self._entry.narinfo
        if state.upstream.name != self._entry.upstream:
            other = await self._upstreams.ask_one(
                state, lambda upstream: self._questions.ask_upstream(upstream, self._url.hash_part), _BEGIN_SECONDS
            )
            if not isinstance(other, Answer):
                return other
            if not offers(other.value, self._url):
                return Outcome.ABSENT
            narinfo = other.value
        if self._bad_files.holds((state.upstream.name, narinfo.url)):
            return Outcome.UNKNOWN
        answer = await self._upstreams.ask_one(
            state, lambda upstream: _open_plain(upstream, narinfo.url), _BEGIN_SECONDS, is_of_file=True
        )
        self._narinfo = narinfo
        return answer


async def _open_plain(upstream: Upstream, url: str) -> Body | None:
    body = await upstream.open(url)
    if body is not None and body.encoding is not None:
        body.close()
        raise UpstreamProtocolError(f"its NAR has the Content-Encoding {body.encoding}")
    return body
