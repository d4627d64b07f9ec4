"""NARs of upstreams: kept, made of chunks, still growing, or, where nothing can be kept, passed through."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Final

from msgspec import Struct, field

from harmonia_py.cache.source import UNNAMED, Asker, Download, NotAtOnce
from harmonia_py.catalog.kept import Kept
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.codecs import COMPRESSIONS
from harmonia_py.contents.kept_files import KeptFacts, key_of
from harmonia_py.errors import HarmoniaError
from harmonia_py.mirror.asking import NarinfoQuestions, offers
from harmonia_py.mirror.downloads import Downloads
from harmonia_py.mirror.indexed_narinfo import IndexedNarInfo
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.nar_download import BAD_FILES, BadFiles, NarDownload
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.runtime.bounded import TimedSet

_log = logging.getLogger(__name__)

# So long an answer of the catalog is believed that a file is not in chunks.
_HOLDS_SECONDS: Final = 1.0
# The catalog is asked for so many files after they were sent; a file beyond them is looked up when it is sent again.
_MAX_UNSURE: Final = 4096
# Between two such questions, so that they do not delay what clients wait for.
_UNSURE_SECONDS: Final = 0.02


class MirroredNars(Struct, eq=False):
    """The NARs of upstreams.

    Attributes:
        upstreams: the upstreams.
        downloads: serves their files.
        kept: what the catalog knows of these files.
        index: the narinfos of upstreams.
        questions: ask upstreams for narinfos.
        counters: of downloads.
        entered: told of a narinfo whose NAR is kept now.
        in_background: runs what goes on behind an answer.
    """

    upstreams: Upstreams
    downloads: Downloads
    kept: Kept
    index: NarinfoIndex
    questions: NarinfoQuestions
    counters: MirrorCounters
    entered: Callable[[IndexedNarInfo], object]
    in_background: Callable[[Coroutine[None, None, None]], object]
    # Files that were sent before the catalog was asked for them.
    _unsure: dict[BlobKey, NarUrl] = field(default_factory=dict)
    _bad_files: BadFiles = field(default_factory=lambda: TimedSet(BAD_FILES))

    async def open(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """The file of a NAR; None when no upstream has it.

        Raises:
            UpstreamError: no upstream gives it.
        """
        if url.compression not in COMPRESSIONS or url.nar_hash is None:
            return None
        self.kept.used(url.hash_part)
        if asker.at_once:
            return self._at_once(url)
        known = await self.kept.find(key_of(url), lately=True)
        said = time.monotonic()
        download = await self._made(known)
        if download is None:
            download = await self._whole(url, known, said, asker) or await self._made_since(url, known)
        return download

    def _at_once(self, url: NarUrl) -> Download:
        """The kept file, if it can be opened without waiting, unless the catalog is known not to have it as a file."""
        key = key_of(url)
        known = self.kept.remembered(key)
        if known is not None and (known.facts is None or known.recipe is not None):
            raise NotAtOnce
        blob = self.downloads.open_at_once(key)
        if known is None and len(self._unsure) < _MAX_UNSURE:
            if not self._unsure:
                self.in_background(self._look_later())
            self._unsure[key] = url
        self.counters.hits.add()
        return blob.download(secrets.token_hex(16))

    async def _look_later(self) -> None:
        """Enter files that were sent before the catalog was asked, where it does not have them."""
        while self._unsure:
            await asyncio.sleep(_UNSURE_SECONDS)
            key, url = next(iter(self._unsure.items()))
            try:
                if (await self.kept.find(key)).facts is None:
                    await self._enter_whole(url)
            except HarmoniaError:
                pass
            except Exception:  # noqa: BLE001  # the files behind this one are looked up all the same
                _log.exception("%s: unforeseen, after it was sent", url)
            finally:
                del self._unsure[key]

    async def _made(self, known: KeptFacts) -> Download | None:
        """The file if it is made of chunks; None for any other."""
        made = await self.kept.made(known)
        if made is not None:
            self.counters.hits.add()
        return made

    async def _made_since(self, url: NarUrl, known: KeptFacts) -> Download | None:
        """The file if it has become chunks since it was looked up."""
        found = await self.kept.find(key_of(url))
        if found.recipe is not None and found.recipe != known.recipe:
            # No upstream was asked for it: it is not absent when its chunks are gone.
            self.index.forget_absent(known.key or key_of(url))
        return await self._made(found)

    async def _whole(self, url: NarUrl, known: KeptFacts, said: float, asker: Asker) -> Download | None:
        """The file as a whole; `said` is when the catalog said what is known, on the clock of `time.monotonic`."""
        key, is_new = key_of(url), False

        async def want() -> NarDownload | None:
            nonlocal is_new
            # What is in chunks is not fetched again because the catalog failed for a moment. An answer of a moment ago
            # holds: a file does not become chunks at once, and the client waits for the first byte.
            if known.validity is None or time.monotonic() - said > _HOLDS_SECONDS:
                recipe = (await self.kept.find(key, insists=True)).recipe
            else:
                recipe = known.recipe
            if recipe is not None and recipe != known.recipe:
                return None
            is_new = True
            return await self._want(url)

        download = await self.downloads.serve(known.key or key, want, asker)
        if download is not None and asker.begins and known.facts is None and not is_new:
            try:
                await self._enter_whole(url)
            except BaseException:
                download.release()
                raise
        return download

    async def _want(self, url: NarUrl) -> NarDownload | None:
        entry = await self.index.find_narinfo(url.hash_part)
        if entry is None:
            entry = await self.questions.ask(url.hash_part)
        if entry is not None and not offers(entry.narinfo, url):
            # Clients keep narinfos for a month: the URL may be from an older narinfo, or from another upstream's.
            entry = await self.questions.ask_for(url)
        if entry is None:
            return None
        return NarDownload(
            entry,
            url,
            self.downloads.lane,
            self.counters,
            upstreams=self.upstreams,
            questions=self.questions,
            index=self.index,
            arrived=self._enter,
            bad_files=self._bad_files,
        )

    async def _enter_whole(self, url: NarUrl) -> None:
        """Enter a whole file that the catalog does not have: a process ended between the file and its row."""
        if await self.kept.has(key_of(url)):
            entry = await self.index.find(url.hash_part)
            if entry is not None and entry.facts is None and entry.narinfo.path_info.nar_hash == url.nar_hash:
                await self._enter(entry, url)

    async def _enter(self, entry: IndexedNarInfo, url: NarUrl, metadata: Mapping[str, str] | None = None) -> None:
        await self.index.enter(entry, url, metadata)
        self.entered(entry)
