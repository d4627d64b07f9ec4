"""The `.nar.zst` of a store path: made once, by the first download, and kept.

The NAR is verified on the way, and only the right one is finished: of another one every client's connection is cut.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self

from msgspec import Struct, field
from msgspec.structs import replace

from harmonia_py.cache.found import Found
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, Source
from harmonia_py.cache.validity import together
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.compressed_metrics import CompressedCounters
from harmonia_py.contents.compressing import Compressing
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.kept_files import FileFacts, KeptFiles, Mismatch, key_of
from harmonia_py.contents.nar_check import NarCheck, WrongNar
from harmonia_py.contents.read_pieces import ReadPieces
from harmonia_py.contents.storage import NotKept
from harmonia_py.errors import DaemonError, FormatError, HarmoniaError, StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.runtime.bounded import TimedSet

_log = logging.getLogger(__name__)

# A path whose files are wrong is not read again for each request; soon enough after it has been repaired.
_MISMATCH_REST_SECONDS: Final = 60.0
# Of so many wrong paths a store is lost.
_MAX_MISMATCHES: Final = 10_000


class NarMismatch(StorePathChanged):
    """The files of a store path are not what its NarHash and NarSize say.

    Attributes:
        path_info: what the store says.
        nar_hash: what the NAR has instead; None when it is already too long, and the rest was not read.
    """

    def __init__(self, path_info: PathInfo, nar_hash: Hash | None) -> None:
        super().__init__(f"the NAR of {path_info.store_path} does not match its NarHash {path_info.nar_hash}")
        self.path_info = path_info
        self.nar_hash = nar_hash


class CompressedNars:
    """A `Source` that offers the NARs of another one as zstd files.

    Args:
        inner: has NARs without compression; everything else it has is passed on.
        intake: where files come in and are kept.
        kept: what is known of them.
        compressing: how, and how many at once. It is closed with this source.
        counters: what is counted; None for counters that are on no page.
        damaged: told of a path whose files are not what the inner source says, and in which words.
    """

    def __init__(
        self,
        inner: Source,
        intake: Intake,
        kept: KeptFiles,
        compressing: Compressing,
        counters: CompressedCounters | None = None,
        *,
        damaged: Callable[[PathInfo, str], Awaitable[object]] | None = None,
    ) -> None:
        self.counters = counters or CompressedCounters()
        self._inner = inner
        self._intake = intake
        self._kept = kept
        self._compressing = compressing
        self._shared = _Shared(inner, compressing, kept, self.counters, damaged or _log_damage)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what is being compressed. The transfers that need it have ended or are cut."""
        await self._intake.abandon(*self._compressing.lanes)
        await self._compressing.aclose()

    async def idle(self) -> None:
        """Wait until nothing is compressed."""
        await self._intake.idle(*self._compressing.lanes)

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """The narinfo with the zstd file as the place of the NAR, and what is known of that file."""
        found = await self._inner.narinfo(hash_part)
        if found is None or found.narinfo.compression != "none":
            return found
        url = NarUrl(hash_part, found.narinfo.path_info.nar_hash, "zstd")
        kept = await self._kept.find(key_of(url))
        narinfo = replace(
            found.narinfo,
            url=str(url),
            compression="zstd",
            file_hash=kept.facts.file_hash if kept.facts is not None else None,
            file_size=kept.facts.file_size if kept.facts is not None else None,
        )
        return replace(found, narinfo=narinfo, validity=together(found.validity, kept.validity))

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """The kept file, or the file as it grows, or whatever the inner source says of another URL.

        Raises:
            StorePathChanged: the files of the store path have just been found to be wrong.
        """
        if url.compression != "zstd" or url.nar_hash is None:
            return await self._inner.nar(url, asker)
        try:
            found = await self._inner.narinfo(url.hash_part)
        except DaemonError:
            validity = None  # what is kept is right, whether its path is still valid or not
        else:
            if found is None or found.narinfo.path_info.nar_hash != url.nar_hash:
                return None
            validity = found.validity
        self._kept.used(url.hash_part)
        if asker.at_once:
            # Were it one that is made of chunks by now, its bytes would still be those of its NAR, and soon deleted.
            blob = self._intake.storage.open_at_once(key_of(url))
            self.counters.hits.add()
            return replace(blob.download(secrets.token_hex(16)), validity=validity)
        known = await self._kept.find(key_of(url))
        made = await self._kept.made(known)
        if made is not None:
            self.counters.hits.add()
            return replace(made, validity=validity)
        key = known.key or key_of(url)
        try:
            download = await self._intake.open(key, lambda: self._incoming(url), self.counters, asker)
            return None if download is None else replace(download, validity=validity)
        except NotKept:
            return await self._intake.pass_through(lambda: self._incoming(url, is_kept=False), asker)

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """What the inner source says."""
        return await self._inner.document(kind, name)

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What the inner source says."""
        return await self._inner.realisation(output)

    async def keep(self, url: NarUrl) -> bool:
        """Make the file of `url`, a URL of this source, unless it is kept; False when there is no such store path.

        Raises:
            HarmoniaError: it cannot be made or kept.
        """
        return await self._intake.keep(key_of(url), lambda: self._incoming(url))

    async def mismatches(self) -> Sequence[Mismatch]:
        """The NARs that were found to be wrong, by any process, and not found right since."""
        return await self._kept.mismatches()

    async def _incoming(self, url: NarUrl, *, is_kept: bool = True) -> "_CompressedNar | None":
        """The NAR that becomes the file of `url`, unless it is known to be wrong."""
        found = await self._inner.narinfo(url.hash_part)
        if found is None or found.narinfo.path_info.nar_hash != url.nar_hash:
            return None
        info = found.narinfo.path_info
        self._shared.check(key_of(url), info)
        return _CompressedNar(self._shared, url, info, is_kept=is_kept)


class _Shared(Struct, eq=False):
    """The things that all compressions of a source share, and the paths that were found to be wrong a moment ago."""

    inner: Source
    compressing: Compressing
    kept: KeptFiles
    counters: CompressedCounters
    damaged: Callable[[PathInfo, str], Awaitable[object]]
    _resting: TimedSet[BlobKey] = field(default_factory=lambda: TimedSet(_MAX_MISMATCHES))

    def check(self, key: BlobKey, path_info: PathInfo) -> None:
        """Raise `StorePathChanged` for a path that is not worth another try."""
        if self._resting.holds(key):
            raise StorePathChanged(f"the NAR of {path_info.store_path} has just been found to be wrong")

    async def note(self, key: BlobKey, error: NarMismatch) -> None:
        """Say and remember that a NAR is wrong, also after a restart."""
        await self.say(key, error)
        await self.kept.mark(error.path_info, error.nar_hash)

    async def say(self, key: BlobKey, error: NarMismatch) -> None:
        """Say it, and remember it in this process."""
        self.counters.mismatches.add()
        self._resting.add(key, _MISMATCH_REST_SECONDS)
        actual = error.nar_hash or "that of a longer NAR"
        words = f"the NarHash of its files is {actual}, the store says {error.path_info.nar_hash}"
        await self.damaged(error.path_info, words)


async def _log_damage(path_info: PathInfo, words: str) -> None:
    _log.critical("%s is damaged: %s; `nix-store --repair-path` may help", path_info.store_path, words)


class _CompressedNar:
    """An `Incoming`: the NAR of a store path, and the zstd file that is made of it."""

    size = None

    def __init__(self, shared: _Shared, url: NarUrl, path_info: PathInfo, *, is_kept: bool) -> None:
        self.room = path_info.nar_size
        self.lane = shared.compressing.lane(path_info.nar_size) if is_kept else shared.compressing.streams
        self._shared = shared
        self._url = url
        self._path_info = path_info
        self._is_kept = is_kept
        self._loop = asyncio.get_running_loop()
        self._check: NarCheck

    async def open(self) -> ReadPieces | None:
        """The NAR, protected from the garbage collector."""
        nar = await self._shared.inner.nar(replace(self._url, compression="none"))
        if nar is None:
            return None
        counters = self._shared.counters
        (counters.misses if self._is_kept else counters.unkept).add()
        return ReadPieces(nar, self.lane.threads)

    def check(self) -> NarCheck:
        """Verifies it, and compresses it."""
        self._check = self._shared.compressing.check(self._path_info, is_kept=self._is_kept)
        return self._check

    def fault(self, error: FormatError) -> HarmoniaError:
        """The store's: its files are not what its database says."""
        mismatch = NarMismatch(self._path_info, error.nar_hash if isinstance(error, WrongNar) else None)
        if not self._is_kept:  # then a thread calls this, and `failed` is not called
            asyncio.run_coroutine_threadsafe(self._shared.say(key_of(self._url), mismatch), self._loop)
        return mismatch

    async def failed(self, error: HarmoniaError) -> None:
        """Nothing is kept, and a wrong NAR is remembered."""
        if isinstance(error, NarMismatch):
            await self._shared.note(key_of(self._url), error)
        else:
            self._shared.counters.failures.add()
            _log.warning("%s: not compressed: %s", self._path_info.store_path, error)

    async def kept(self) -> None:
        """The NAR was right this time."""
        checked, key = self._check.checked, key_of(self._url)
        self._shared.counters.nar_bytes.add(checked.nar_size)
        self._shared.counters.file_bytes.add(checked.file_size)
        await self._shared.kept.keep(key, self._path_info, FileFacts(checked.file_hash, checked.file_size))
