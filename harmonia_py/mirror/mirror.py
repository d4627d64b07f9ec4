"""A `Source` over upstreams: what they have is fetched once, verified, kept, and served from then on.

An upstream has a path, does not have it, or cannot tell, and the last never becomes the second by mistake
(`upstreams`). Nothing is believed that no trusted key has signed and no content address proves (`trusted`). A NAR is
fetched by the first request for it and by no other, over all processes (`contents/ingest`). What an upstream said stays
in memory, and in the catalog beside the NAR (`narinfo_index`).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Self

from harmonia_py.cache.found import STALE, Found
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, FileSlice, Pause
from harmonia_py.catalog.kept import Kept
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.codecs import COMPRESSIONS
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.kept_files import KeptFacts, key_of
from harmonia_py.contents.memory import UNPACKING, Memory
from harmonia_py.contents.pieces import SliceReader
from harmonia_py.errors import Overloaded, StorageError
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.mirror.asking import NarinfoQuestions, offers
from harmonia_py.mirror.document_download import DocumentDownload
from harmonia_py.mirror.downloads import Downloads
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.nar_download import BAD_FILES, BadFiles, Hooks, NarDownload
from harmonia_py.mirror.narinfo_index import IndexedNarInfo, NarinfoIndex
from harmonia_py.mirror.outcome import NoUpstreamAnswered
from harmonia_py.mirror.realisations import MirroredRealisations
from harmonia_py.mirror.recoding import Recoding
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.runtime.bounded import TimedSet

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """How a mirror behaves.

    Attributes:
        narinfo_ttl: seconds that a narinfo is believed whose upstream sets no `max-age`.
        negative_ttl: seconds that an absent path is not asked for again.
        downloads: from upstreams, at once, in one process.
    """

    narinfo_ttl: float = 86_400.0
    negative_ttl: float = 30.0
    downloads: int = 32


class Mirror:
    """The `Source` of everything that the upstreams have.

    Attributes:
        on_kept: called with a hash part that may be worth importing: when its NAR is kept, and at each request for it.

    Args:
        upstreams: the upstreams.
        intake: where files come in and are kept.
        kept: what the catalog knows of these files.
        store_dir: narinfos for another store directory are refused.
        settings: how it behaves.
        counters: of what it does; None: counted, not exported.
        recode_reader: reads slices of kept files, to re-code them to zstd; None: they stay as upstreams have them.
        texts: shared memory where all workers find narinfos.
        memory: the budget that downloads draw on to decompress.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        intake: Intake,
        kept: Kept,
        store_dir: StoreDir,
        settings: MirrorSettings,
        *,
        counters: MirrorCounters | None = None,
        recode_reader: SliceReader | None = None,
        texts: SharedTexts | None = None,
        memory: Memory = UNPACKING,
    ) -> None:
        self.counters = counters or MirrorCounters()
        self.on_kept: Callable[[HashPart], object] = lambda _: None
        self.index = NarinfoIndex(upstreams, kept, store_dir, negative_ttl=settings.negative_ttl, texts=texts)
        self._upstreams = upstreams
        self._intake = intake
        self._kept = kept
        self._bad_files: BadFiles = TimedSet(BAD_FILES)
        self._recoding = None if recode_reader is None else Recoding(intake, self.index, recode_reader)
        self._downloads = Downloads(
            upstreams, intake, self.index, self.counters, downloads=settings.downloads, memory=memory
        )
        self._realisations = MirroredRealisations(upstreams, kept, self.index)
        self._questions = NarinfoQuestions(
            upstreams,
            self.index,
            store_dir,
            self.counters,
            ttl=settings.narinfo_ttl,
            renew=lambda entry: self._in_background(self.index.renew(entry)),
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what is being fetched."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._questions.aclose()
        await self._downloads.aclose()
        if self._recoding is not None:
            await self._recoding.aclose()

    async def idle(self) -> None:
        """Wait until nothing comes from an upstream."""
        await self._intake.idle(self._downloads.lane)

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """An upstream's narinfo of the path, remembered or asked for.

        Raises:
            NoUpstreamAnswered: no upstream can tell, its NAR is not kept, and silence does not count as absence.
            Overloaded: not every upstream was asked, and its NAR is not kept.
        """
        found = await self._find(hash_part)
        if found is not None and found.origin.is_kept:
            self.on_kept(hash_part)
        return found

    async def narinfo_of(self, hash_part: HashPart, names: Collection[str]) -> Found | None:
        """As `narinfo`, by the upstreams of these names alone.

        Raises what `narinfo` raises.
        """
        try:
            found = await self.narinfo(hash_part)
        except (NoUpstreamAnswered, Overloaded):
            found = None  # the upstreams that failed may not be among `names`
        else:
            if found is None:
                return None
            entry = await self.index.find(hash_part)
            if entry is not None and entry.upstream in names:
                return found
        absent = f"{hash_part} of {' '.join(sorted(names))}"
        if self._upstreams.offline or self.index.is_absent(absent):
            return None
        entry = await self._questions.ask_those(hash_part, names)
        if entry is None:
            self.index.note_absent(absent)
            return None
        # Not remembered: the index holds one narinfo a path, that of the upstream that comes first.
        return entry.published()

    async def _find(self, hash_part: HashPart) -> Found | None:
        if self.index.is_absent(hash_part):
            return None
        entry = await self.index.find(hash_part)
        if entry is not None and (entry.is_fresh() or self._upstreams.offline):
            self.counters.narinfos_remembered.add()
            # Offline, only what is kept is offered.
            return entry.published() if entry.facts is not None or not self._upstreams.offline else None
        if self._upstreams.offline:
            return None
        return await self._ask_again(hash_part, entry)

    async def _ask_again(self, hash_part: HashPart, entry: IndexedNarInfo | None) -> Found | None:
        """The narinfo of a path of which none is remembered (`entry` is None), or only one that is too old."""
        try:
            found = await self._questions.ask(hash_part)
        except (NoUpstreamAnswered, Overloaded) as error:
            return await self._stale(entry, error)
        if found is not None:
            return found.published()
        if entry is not None and await self._is_kept(entry):
            # The upstream has collected it; here it is verified and kept, so clients still get it.
            return entry.published()
        self.index.forget(hash_part)
        self.index.note_absent(hash_part)
        return None

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """The file of a NAR: one that is kept, one that still grows, or, where nothing can be kept, one passed through.

        Raises:
            UpstreamError: no upstream gives it.
        """
        if url.compression not in COMPRESSIONS or url.nar_hash is None:
            return None
        self._kept.used(url.hash_part)
        known = await self._kept.find(key_of(url))
        download = await self._made(known)
        if download is None:
            download = await self._whole(url, known, asker) or await self._made_since(url, known)
        if download is None or not asker.begins:
            return download
        try:
            self.on_kept(url.hash_part)
        except BaseException:
            download.release()
            raise
        return download

    async def _made(self, known: KeptFacts) -> Download | None:
        """The file if it is made of chunks; None for any other."""
        made = await self._kept.made(known)
        if made is not None:
            self.counters.hits.add()
        return made

    async def _made_since(self, url: NarUrl, known: KeptFacts) -> Download | None:
        """The file if it has become chunks since it was looked up."""
        found = await self._kept.find(key_of(url))
        if found.recipe is not None and found.recipe != known.recipe:
            # No upstream was asked for it: it is not absent when its chunks are gone.
            self.index.forget_absent(known.key or key_of(url))
        return await self._made(found)

    async def _whole(self, url: NarUrl, known: KeptFacts, asker: Asker) -> Download | None:
        key, is_new = key_of(url), False

        async def want() -> NarDownload | None:
            nonlocal is_new
            # What is in chunks is not fetched again because the catalog failed for a moment.
            recipe = (await self._kept.find(key, insists=True)).recipe
            if recipe is not None and recipe != known.recipe:
                return None
            is_new = True
            return await self._want_nar(url)

        download = await self._downloads.serve(known.key or key, want, asker)
        if download is not None and asker.begins and known.facts is None and not is_new:
            try:
                await self._enter_whole(url)
            except BaseException:
                download.release()
                raise
        return download

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """The listing or build log that an upstream has."""
        url = f"{name}.ls" if kind is DocumentKind.LISTING else f"log/{name}"
        key = BlobKey(f"{name}.ls" if kind is DocumentKind.LISTING else f"{name}.log")

        async def enter(size: int) -> None:
            await self._kept.keep_document(key, str(name), size, is_listing=kind is DocumentKind.LISTING)

        async def want() -> DocumentDownload:
            return DocumentDownload(self._downloads.lane, self.counters, self._upstreams, url, enter)

        return await self._downloads.serve(key, want)

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of an output by an upstream; the remembered one when none answers."""
        found = await self._realisations.find(output)
        if found is None:
            return None
        realisation, told = found
        if told is not None:
            self._in_background(self._realisations.keep(told))
        return realisation

    async def fetch(self, hash_part: HashPart, progress: Callable[[int], object]) -> NarInfo | None:
        """Fetch the NAR of a path unless it is kept; the narinfo of the path, or None when no upstream has it.

        Args:
            hash_part: of the path.
            progress: called with the number of bytes that have come since the last call.

        Raises:
            HarmoniaError: the NAR cannot be fetched or kept.
        """
        found = await self.narinfo(hash_part)
        if found is None or found.origin.is_kept:
            return None if found is None else found.narinfo
        narinfo = found.narinfo
        url = NarUrl(hash_part, narinfo.path_info.nar_hash, narinfo.compression)
        download = await self.nar(url)
        if download is None:
            return None
        with download:
            pieces = download.pieces(0, None)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                if isinstance(piece, Pause):
                    await piece.wait()
                else:
                    progress(piece.size if isinstance(piece, FileSlice) else len(piece))
        await self._intake.settled(key_of(url))
        if not await self._kept.has(key_of(url)):
            raise StorageError("the NAR cannot be kept")
        return narinfo

    async def _stale(self, entry: IndexedNarInfo | None, error: NoUpstreamAnswered | Overloaded) -> Found | None:
        """The answer when no upstream answers: the old narinfo while its NAR is kept."""
        if entry is not None and await self._is_kept(entry):
            self.counters.narinfos_stale.add()
            return entry.published(STALE)
        if isinstance(error, NoUpstreamAnswered) and self._upstreams.unknown_is_not_found:
            return None
        raise error

    async def _is_kept(self, entry: IndexedNarInfo) -> bool:
        """Whether the NAR is kept at this moment: it asks the storage, not the memory."""
        await self.index.look(entry)
        return await self._kept.has(key_of(entry.url))

    # Files

    async def _want_nar(self, url: NarUrl) -> NarDownload | None:
        entry = await self.index.find_narinfo(url.hash_part)
        if entry is None:
            entry = await self._questions.ask(url.hash_part)
        if entry is not None and not offers(entry.narinfo, url):
            # Clients keep narinfos for a month: the URL may be from an older narinfo, or from another upstream's.
            entry = await self._questions.ask_for(url)
        if entry is None:
            return None
        hash_part = url.hash_part
        hooks = Hooks(
            lambda upstream: self._questions.ask_upstream(upstream, hash_part),
            self._enter,
            lambda entry: self.index.forget(entry.url.hash_part),
        )
        return NarDownload(
            entry,
            url.compression,
            self._downloads.lane,
            self.counters,
            upstreams=self._upstreams,
            hooks=hooks,
            bad_files=self._bad_files,
        )

    async def _enter_whole(self, url: NarUrl) -> None:
        """Enter a whole file that the catalog does not have: a process ended between the file and its row."""
        if await self._kept.has(key_of(url)):
            entry = await self.index.find(url.hash_part)
            if entry is not None and entry.facts is None and entry.narinfo.path_info.nar_hash == url.nar_hash:
                await self._enter(entry, url.compression)

    async def _enter(self, entry: IndexedNarInfo, offered: str, metadata: Mapping[str, str] | None = None) -> None:
        info = entry.narinfo.path_info
        await self.index.enter(entry, NarUrl(info.store_path.hash_part, info.nar_hash, offered), metadata)
        self.on_kept(entry.url.hash_part)
        if self._recoding is not None:
            self._in_background(self._recoding.recode(entry))

    def _in_background(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
