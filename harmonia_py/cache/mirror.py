"""A `Source` over upstreams: what they have is fetched once, verified, kept, and served from then on.

Rules that make it so: three outcomes, of which "unknown" never becomes "absent" by mistake (`asking`); nothing is
believed that no key vouches for (`trust`); a NAR is fetched by the first request for it and by no other, over all
processes (`fetch`); what an upstream said is remembered, and kept beside the NAR (`remembered`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from harmonia_py.cache.asking import Answer, Nobody, Panel
from harmonia_py.cache.blobs import BlobKey
from harmonia_py.cache.compressing import SliceReader
from harmonia_py.cache.fetched import FetchedFiles
from harmonia_py.cache.kept import KeptFiles, key_of
from harmonia_py.cache.mirror_figures import MirrorCounters
from harmonia_py.cache.origin import KEPT, STALE, SourcedNarInfo
from harmonia_py.cache.realisations import MirroredRealisations
from harmonia_py.cache.recoding import Recoding
from harmonia_py.cache.remembered import NarinfoMemory, Remembered
from harmonia_py.cache.source import Download, FileSlice, Pause
from harmonia_py.cache.trust import parse_narinfo
from harmonia_py.cache.unpack import COMPRESSIONS
from harmonia_py.cache.upstream import Upstream, read_document
from harmonia_py.cache.wanted import Grudges, Hooks, WantedDocument, WantedNar, can_become
from harmonia_py.errors import StorageError
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.nix.narinfo import MAX_NARINFO_SIZE, NarInfo, NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

_log = logging.getLogger(__name__)

_AnyWanted = WantedNar | WantedDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """How a mirror behaves.

    Attributes:
        narinfo_ttl: seconds that a narinfo is believed whose upstream sets no `max-age`.
        negative_ttl: seconds that an absent path is not asked for again.
        downloads: from upstreams, at once, in one process.
        begin_timeout: seconds that an upstream has to begin a NAR.
    """

    narinfo_ttl: float = 86_400.0
    negative_ttl: float = 30.0
    downloads: int = 32
    begin_timeout: float = 15.0


class Mirror:
    """See the module's docstring.

    Attributes:
        on_kept: called with the hash part of a path when its NAR has been kept, and when it is asked for after that.

    Args:
        panel: the upstreams.
        kept: where files are kept.
        store_dir: narinfos of another one are refused.
        settings: see there.
        counters: what is counted; nobody else sees it unless it is given.
        recode: reads slices of files, when what is kept is to be re-coded to zstd.
        texts: where narinfos are for all workers.
    """

    def __init__(
        self,
        panel: Panel,
        kept: KeptFiles,
        store_dir: StoreDir,
        settings: MirrorSettings,
        *,
        counters: MirrorCounters | None = None,
        recode: SliceReader | None = None,
        texts: SharedTexts | None = None,
    ) -> None:
        self.counters = counters or MirrorCounters()
        self.on_kept: Callable[[HashPart], object] = lambda _: None
        self.memory = NarinfoMemory(panel, kept, store_dir, negative_ttl=settings.negative_ttl, texts=texts)
        self._panel = panel
        self._kept = kept
        self._store_dir = store_dir
        self._settings = settings
        self._grudges = Grudges()
        self._recoding = None if recode is None else Recoding(kept, self.memory, recode)
        self._files = FetchedFiles(panel, kept, self.memory, self.counters, downloads=settings.downloads)
        self._realisations = MirroredRealisations(panel, kept, self.memory)
        self._asking: dict[HashPart, asyncio.Task[Remembered | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up what is being fetched."""
        pending = {*self._tasks, *self._asking.values()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._files.aclose()
        if self._recoding is not None:
            await self._recoding.aclose()

    async def idle(self) -> None:
        """Wait until nothing comes from an upstream."""
        await self._files.idle()

    async def narinfo(self, hash_part: HashPart) -> SourcedNarInfo | None:
        """What an upstream says of the path, now or before.

        Raises:
            Nobody: no upstream can tell, there is no copy, and the client had better ask again.
        """
        found = await self._find(hash_part)
        if found is not None and found.origin in (KEPT, STALE):
            self.on_kept(hash_part)
        return found

    async def _find(self, hash_part: HashPart) -> SourcedNarInfo | None:
        if self.memory.is_absent(hash_part):
            return None
        entry = await self.memory.find(hash_part)
        if entry is not None and (entry.is_fresh() or self._panel.offline):
            self.counters.narinfos_remembered.add()
            return entry.published() if entry.facts is not None or not self._panel.offline else None
        if self._panel.offline:
            return None
        return await self._ask_again(hash_part, entry)

    async def _ask_again(self, hash_part: HashPart, entry: Remembered | None) -> SourcedNarInfo | None:
        """The narinfo of a path of which nothing is remembered, or only what is too old."""
        try:
            found = await self._ask_once(hash_part)
        except Nobody:
            return await self._stale(entry)
        if found is not None:
            return found.published()
        if entry is not None and await self._is_kept(entry):
            # Collected there, but verified and kept here: a client has no use for that difference.
            return entry.published()
        self.memory.forget(hash_part)
        self.memory.note_absent(hash_part)
        return None

    async def nar(self, url: NarUrl) -> Download | None:
        """The file of a NAR: kept, as it grows, or, where nothing can be kept, as it comes.

        Raises:
            UpstreamError: it cannot be had.
        """
        if url.compression not in COMPRESSIONS or url.nar_hash is None:
            return None
        download = await self._files.serve(key_of(url), lambda: self._want_nar(url))
        if download is not None:
            self.on_kept(url.hash_part)
        return download

    async def listing(self, hash_part: HashPart) -> Download | None:
        """The listing that an upstream has of the path."""
        url = f"{hash_part}.ls"
        return await self._files.serve(BlobKey(url), lambda: self._want_document(url))

    async def log(self, derivation: StorePath | HashPart) -> Download | None:
        """The build log that an upstream has."""
        return await self._files.serve(BlobKey(f"{derivation}.log"), lambda: self._want_document(f"log/{derivation}"))

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What an upstream says, or said when none can tell now."""
        found = await self._realisations.find(output)
        if found is None:
            return None
        realisation, metadata = found
        if metadata is not None:
            self._in_background(self._realisations.keep(output, metadata))
        return realisation

    async def keep(self, hash_part: HashPart, arrived: Callable[[int], object]) -> NarInfo | None:
        """See that a path is kept, and return its narinfo; None when no upstream has it.

        Args:
            hash_part: of the path.
            arrived: called with the number of bytes that have come since the last call.

        Raises:
            HarmoniaError: it cannot be had or kept.
        """
        narinfo = await self.narinfo(hash_part)
        if narinfo is None or narinfo.origin in (KEPT, STALE):
            return narinfo
        url = NarUrl(hash_part, narinfo.path_info.nar_hash, narinfo.compression)
        download = await self.nar(url)
        if download is None:
            return None
        with download:
            pieces = download.pieces(0, None)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                if isinstance(piece, Pause):
                    await asyncio.sleep(piece.seconds)
                else:
                    arrived(piece.size if isinstance(piece, FileSlice) else len(piece))
        await self._files.settle(key_of(url))
        if await self._kept.metadata(key_of(url)) is None:
            raise StorageError("the NAR cannot be kept")
        return narinfo

    # Narinfos

    async def _ask_once(self, hash_part: HashPart) -> Remembered | None:
        """Ask the upstreams; whoever wants the same meanwhile gets the same answer."""
        task = self._asking.get(hash_part)
        if task is None:
            task = self._asking[hash_part] = asyncio.create_task(self._ask(hash_part))
            task.add_done_callback(lambda done: self._asked(hash_part, done))
        return await asyncio.shield(task)

    def _asked(self, hash_part: HashPart, task: "asyncio.Task[Remembered | None]") -> None:
        del self._asking[hash_part]
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more

    async def _ask(self, hash_part: HashPart) -> Remembered | None:
        self.counters.narinfos_asked.add()
        answer = await self._panel.ask(lambda upstream: self._question(upstream, hash_part))
        if answer is None:
            return None
        entry = await self._entry(answer)
        self.memory.remember(entry)
        if entry.facts is not None:
            self._in_background(self.memory.keep(entry))
        return entry

    async def _ask_for(self, url: NarUrl) -> Remembered | None:
        """The narinfo of an upstream that has this very NAR; what is remembered of the path stays."""

        async def question(upstream: Upstream) -> _Told | None:
            told = await self._question(upstream, url.hash_part)
            return told if told is not None and _offers(told.narinfo, url) else None

        self.counters.narinfos_asked.add()
        answer = await self._panel.ask(question)
        return None if answer is None else await self._entry(answer)

    async def _entry(self, answer: "Answer[_Told]") -> Remembered:
        told = answer.value
        max_age = self._settings.narinfo_ttl if told.max_age is None else told.max_age
        entry = Remembered(told.narinfo, answer.upstream.name, time.time(), max_age, told.narinfo.compression)
        await self.memory.look(entry)
        return entry

    async def _question(self, upstream: Upstream, hash_part: HashPart) -> "_Told | None":
        body = await upstream.open(f"{hash_part}.narinfo")
        if body is None:
            return None
        with body:
            data = await read_document(body, MAX_NARINFO_SIZE)
        return _Told(parse_narinfo(data, hash_part, upstream.public_keys, self._store_dir), body.max_age)

    async def _stale(self, entry: Remembered | None) -> SourcedNarInfo | None:
        """What is answered when nobody can tell."""
        if entry is not None and await self._is_kept(entry):
            self.counters.narinfos_stale.add()
            return entry.published(STALE)
        if self._panel.unknown_is_not_found:
            return None
        raise Nobody("no upstream can tell whether it has this path")

    async def _is_kept(self, entry: Remembered) -> bool:
        """Whether the NAR is here at this moment, whatever was known a minute ago."""
        await self.memory.look(entry)
        return await self._kept.metadata(key_of(entry.url)) is not None

    # Files

    async def _want_nar(self, url: NarUrl) -> WantedNar | None:
        entry = await self.memory.find(url.hash_part)
        if entry is None:
            entry = await self._ask_once(url.hash_part)
        if entry is not None and not _offers(entry.narinfo, url):
            # Built or compressed anew since this was heard, or another upstream's: clients remember for a month.
            entry = await self._ask_for(url)
        if entry is None:
            return None
        hash_part = url.hash_part

        async def narinfo(upstream: Upstream) -> NarInfo | None:
            told = await self._question(upstream, hash_part)
            return None if told is None else told.narinfo

        hooks = Hooks(narinfo, self._arrived, lambda entry: self.memory.forget(entry.url.hash_part))
        seconds = self._settings.begin_timeout
        return WantedNar(entry, url.compression, panel=self._panel, hooks=hooks, grudges=self._grudges, seconds=seconds)

    async def _arrived(self, entry: Remembered) -> None:
        await self.memory.look(entry)
        await self.memory.keep(entry)
        self.on_kept(entry.url.hash_part)
        if self._recoding is not None:
            self._in_background(self._recoding.recode(entry))

    async def _want_document(self, url: str) -> WantedDocument | None:
        return WantedDocument(self._panel, url)

    def _in_background(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(frozen=True, slots=True)
class _Told:
    narinfo: NarInfo
    max_age: float | None


def _offers(narinfo: NarInfo, url: NarUrl) -> bool:
    return narinfo.path_info.nar_hash == url.nar_hash and can_become(narinfo.compression, url.compression)
