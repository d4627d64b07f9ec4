"""A `Source` over upstreams: what they have is fetched once, verified, kept, and served from then on.

An upstream has a path, does not have it, or cannot tell, and the last never becomes the second by mistake
(`upstreams`). Nothing is believed that no trusted key has signed and no content address proves (`trusted`). A NAR is
fetched by the first request for it and by no other, over all processes (`contents/ingest`). What an upstream said stays
in memory, and in the catalog beside the NAR (`narinfo_index`).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Self

from msgspec import Struct

from harmonia_py.cache.found import STALE, Found
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, FileSlice, Pause
from harmonia_py.catalog.kept import Kept
from harmonia_py.catalog.kept_mirrored import KeptMirrored
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.kept_files import key_of
from harmonia_py.errors import Overloaded, StorageError
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.mirror.asking import NarinfoQuestions
from harmonia_py.mirror.document_download import DocumentDownload
from harmonia_py.mirror.downloads import Downloads
from harmonia_py.mirror.indexed_narinfo import IndexedNarInfo
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.mirror.nars import MirroredNars
from harmonia_py.mirror.outcome import NoUpstreamAnswered
from harmonia_py.mirror.realisations import MirroredRealisations
from harmonia_py.mirror.recoding import Recoding
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

_log = logging.getLogger(__name__)


class MirrorSettings(Struct, frozen=True, kw_only=True):
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
        recodes: whether kept files are re-coded to zstd; otherwise they stay as upstreams have them.
        texts: shared memory where all workers find narinfos.
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
        recodes: bool = False,
        texts: SharedTexts | None = None,
    ) -> None:
        self.counters = counters or MirrorCounters()
        self.on_kept: Callable[[HashPart], object] = lambda _: None
        self._kept_mirrored = KeptMirrored(kept)
        self.index = NarinfoIndex(
            upstreams, kept, self._kept_mirrored, store_dir, negative_ttl=settings.negative_ttl, texts=texts
        )
        self._upstreams = upstreams
        self._intake = intake
        self._kept = kept
        self._recoding = Recoding(intake, self.index) if recodes else None
        self._downloads = Downloads(upstreams, intake, self.index, self.counters, downloads=settings.downloads)
        self._realisations = MirroredRealisations(upstreams, self._kept_mirrored, self.index)
        self._questions = NarinfoQuestions(
            upstreams,
            self.index,
            store_dir,
            self.counters,
            ttl=settings.narinfo_ttl,
            renew=lambda entry: self._in_background(self.index.renew(entry)),
        )
        self._nars = MirroredNars(
            upstreams,
            self._downloads,
            kept,
            self.index,
            self._questions,
            counters=self.counters,
            entered=self._nar_entered,
            in_background=self._in_background,
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
        if self._upstreams.offline or (entry is None and self.index.is_absent(hash_part)):  # by an answer meanwhile
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
        if entry is not None:
            if await self._is_kept(entry):
                # The upstream has collected it; here it is verified and kept, so clients still get it.
                return entry.published()
            newer = self.index.newer_than(entry)
            if newer is not None:  # another request has got it while the storage was asked
                return newer.published()
        self.index.forget(hash_part)
        self.index.note_absent(hash_part)
        return None

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """The file of a NAR: one that is kept, one that still grows, or, where nothing can be kept, one passed through.

        Raises:
            UpstreamError: no upstream gives it.
        """
        download = await self._nars.open(url, asker)
        if download is None or not (asker.begins or asker.at_once):
            return download
        try:
            self.on_kept(url.hash_part)
        except BaseException:
            download.release()
            raise
        return download

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """The listing or build log that an upstream has."""
        url = f"{name}.ls" if kind is DocumentKind.LISTING else f"log/{name}"
        key = BlobKey(f"{name}.ls" if kind is DocumentKind.LISTING else f"{name}.log")

        async def enter(size: int) -> None:
            await self._kept_mirrored.keep_document(key, str(name), size, is_listing=kind is DocumentKind.LISTING)

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
            self._in_background(self._kept_mirrored.keep_realisation(told))
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

    def _nar_entered(self, entry: IndexedNarInfo) -> None:
        self.on_kept(entry.url.hash_part)
        if self._recoding is not None:
            self._in_background(self._recoding.recode(entry))

    def _in_background(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
