"""A `Source` over upstreams: what they have is fetched once, verified, kept, and served from then on.

Rules that make it so: three outcomes, of which "unknown" never becomes "absent" by mistake (`asking`); nothing is
believed that no key vouches for (`trust`); a NAR is fetched by the first request for it and by no other, over all
processes (`fetch`); what an upstream said is remembered, and kept beside the NAR (`remembered`).
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from harmonia_py.cache.asking import Nobody, Panel
from harmonia_py.cache.blobs import Blob, BlobKey
from harmonia_py.cache.fetch import Fetch, Stream, agreed_size
from harmonia_py.cache.kept import KeptFiles, NotKept, key_of
from harmonia_py.cache.origin import KEPT, STALE, SourcedNarInfo
from harmonia_py.cache.passing import Passage
from harmonia_py.cache.remembered import NarinfoMemory, Remembered
from harmonia_py.cache.source import Download, FileSlice, Pause
from harmonia_py.cache.trust import parse_narinfo, parse_realisation
from harmonia_py.cache.unpack import COMPRESSIONS
from harmonia_py.cache.upstream import Upstream, read_document
from harmonia_py.cache.wanted import Grudges, WantedDocument, WantedNar, can_become
from harmonia_py.errors import HarmoniaError, StorageError, UpstreamError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Metrics
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import MAX_NARINFO_SIZE, NarInfo, NarUrl
from harmonia_py.nix.realisation import MAX_REALISATION_SIZE, DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

_log = logging.getLogger(__name__)

_AnyWanted = WantedNar | WantedDocument

# As in `compressed`: whoever loses the race for a file tries again.
_ATTEMPTS: Final = 100
_RETRY_SECONDS: Final = 0.005
# So long a request waits for another process to get the first byte of a file.
_BEGIN_SECONDS: Final = 60.0
# A download that has waited so long for its turn is told to come back.
_TURN_SECONDS: Final = 60.0
# They decompress, hash and write; a few more than cores, because some of them wait for the disk.
_THREADS: Final = 4


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


@dataclass(frozen=True, slots=True)
class MirrorCounters:
    """What has happened since the start, in this process.

    Attributes:
        narinfos_asked: questions that went to upstreams.
        narinfos_remembered: answers from memory or disk.
        narinfos_stale: answers from a copy, because no upstream could tell.
        hits: downloads of kept files.
        followed: downloads of files that another request had begun.
        fetched: files fetched and kept.
        passed: downloads for one client alone, because nothing could be kept.
        failures: files that were begun and could not be finished.
    """

    narinfos_asked: Counter = field(default_factory=Counter)
    narinfos_remembered: Counter = field(default_factory=Counter)
    narinfos_stale: Counter = field(default_factory=Counter)
    hits: Counter = field(default_factory=Counter)
    followed: Counter = field(default_factory=Counter)
    fetched: Counter = field(default_factory=Counter)
    passed: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)

    @classmethod
    def on(cls, metrics: Metrics) -> Self:
        """Count them there."""
        return cls(
            narinfos_asked=metrics.counter(families.MIRROR_NARINFOS, "asked"),
            narinfos_remembered=metrics.counter(families.MIRROR_NARINFOS, "remembered"),
            narinfos_stale=metrics.counter(families.MIRROR_NARINFOS, "stale"),
            hits=metrics.counter(families.MIRROR_DOWNLOADS, "hit"),
            followed=metrics.counter(families.MIRROR_DOWNLOADS, "followed"),
            fetched=metrics.counter(families.MIRROR_DOWNLOADS, "fetched"),
            passed=metrics.counter(families.MIRROR_DOWNLOADS, "unkept"),
            failures=metrics.counter(families.MIRROR_FAILURES),
        )


class Mirror:
    """See the module's docstring.

    Args:
        panel: the upstreams.
        kept: where files are kept.
        store_dir: narinfos of another one are refused.
        settings: see there.
        counters: what is counted; nobody else sees it unless it is given.
    """

    def __init__(
        self,
        panel: Panel,
        kept: KeptFiles,
        store_dir: StoreDir,
        settings: MirrorSettings,
        counters: MirrorCounters | None = None,
    ) -> None:
        self.counters = counters or MirrorCounters()
        self.memory = NarinfoMemory(panel, kept, store_dir, negative_ttl=settings.negative_ttl)
        self._panel = panel
        self._kept = kept
        self._store_dir = store_dir
        self._settings = settings
        self._grudges = Grudges()
        self._threads = ThreadPoolExecutor(_THREADS, "mirror")
        self._turns = asyncio.Semaphore(settings.downloads)
        self._asking: dict[HashPart, asyncio.Task[Remembered | None]] = {}
        self._running: dict[BlobKey, Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tasks_of: dict[BlobKey, asyncio.Task[None]] = {}

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
        await asyncio.to_thread(self._threads.shutdown)

    async def narinfo(self, hash_part: HashPart) -> SourcedNarInfo | None:
        """What an upstream says of the path, now or before.

        Raises:
            Nobody: no upstream can tell, there is no copy, and the client had better ask again.
        """
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
        return await self._serve(key_of(url), lambda: self._want_nar(url))

    async def listing(self, hash_part: HashPart) -> Download | None:
        """The listing that an upstream has of the path."""
        url = f"{hash_part}.ls"
        return await self._serve(BlobKey(url), lambda: self._want_document(url))

    async def log(self, derivation: StorePath | HashPart) -> Download | None:
        """The build log that an upstream has."""
        return await self._serve(BlobKey(f"{derivation}.log"), lambda: self._want_document(f"log/{derivation}"))

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What an upstream says, or said when none can tell now."""
        key = BlobKey(f"{Hash.of(str(output).encode()).nix32}.doi")
        if self.memory.is_absent(key):
            return None
        try:
            answer = await self._panel.ask(lambda upstream: self._question_realisation(upstream, output))
        except Nobody:
            kept = await self._kept.metadata(key)
            if kept is not None:
                return self._kept_realisation(kept, output)
            if self._panel.unknown_is_not_found:
                return None
            raise
        if answer is None:
            self.memory.note_absent(key)
            return None
        realisation, data = answer.value
        self._in_background(self._kept.note(key, {"realisation": data.decode(), "upstream": answer.upstream.name}))
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
        info = narinfo.path_info
        key = key_of(NarUrl(hash_part, info.nar_hash, narinfo.compression))
        download = await self.nar(NarUrl(hash_part, info.nar_hash, narinfo.compression))
        if download is None:
            return None
        with download:
            pieces = download.pieces(0, None)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                if isinstance(piece, Pause):
                    await asyncio.sleep(piece.seconds)
                else:
                    arrived(piece.size if isinstance(piece, FileSlice) else len(piece))
        task = self._tasks_of.get(key)
        if task is not None:
            await asyncio.wait([task])
        if await self._kept.metadata(key) is None:
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
        told = answer.value
        max_age = self._settings.narinfo_ttl if told.max_age is None else told.max_age
        entry = Remembered(told.narinfo, answer.upstream.name, time.time(), max_age, told.narinfo.compression)
        await self.memory.look(entry)
        self.memory.remember(entry)
        if entry.facts is not None:
            self._in_background(self.memory.keep(entry))
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

    async def _question_realisation(self, upstream: Upstream, output: DrvOutput) -> tuple[Realisation, bytes] | None:
        if isinstance(output.derivation, Hash):
            url = f"realisations/{output}.doi"
        else:
            url = f"build-trace-v2/{output.derivation}/{output.output_name}.doi"
        body = await upstream.open(url)
        if body is None:
            return None
        with body:
            data = await read_document(body, MAX_REALISATION_SIZE)
        return parse_realisation(data, output, upstream.public_keys), data

    def _kept_realisation(self, metadata: Mapping[str, str], output: DrvOutput) -> Realisation | None:
        asked = self._panel.find(metadata.get("upstream", ""))
        if asked is None:
            return None
        return parse_realisation(metadata.get("realisation", "").encode(), output, asked.upstream.public_keys)

    # Files

    async def _want_nar(self, url: NarUrl) -> WantedNar | None:
        entry = await self.memory.find(url.hash_part)
        if entry is None:
            entry = await self._ask_once(url.hash_part)
        if entry is None or not _offers(entry, url):
            return None
        hash_part = url.hash_part

        async def question(upstream: Upstream) -> NarInfo | None:
            told = await self._question(upstream, hash_part)
            return None if told is None else told.narinfo

        return WantedNar(entry, url.compression, self._panel, question, self._grudges, self._settings.begin_timeout)

    async def _want_document(self, url: str) -> WantedDocument | None:
        return WantedDocument(self._panel, url)

    async def _serve(self, key: BlobKey, want: Callable[[], Awaitable[_AnyWanted | None]]) -> Download | None:
        if self.memory.is_absent(key):
            return None
        try:
            found = await self._serve_kept(key, want)
        except NotKept:
            wanted = await want()
            found = None if wanted is None else await self._pass(wanted)
        except Nobody:
            if not self._panel.unknown_is_not_found:
                raise
            return None
        if found is None:
            self.memory.note_absent(key)
        return found

    async def _serve_kept(self, key: BlobKey, want: Callable[[], Awaitable[_AnyWanted | None]]) -> Download | None:
        for _ in range(_ATTEMPTS):
            fetch = self._running.get(key)
            if fetch is None:
                blob = await self._kept.open(key)
                if blob is not None and (blob.size is not None or await _has_begun(blob)):
                    return self._join(blob, None)
                wanted = await want()
                if wanted is None:
                    return None
                fetch = await self._begin(key, wanted)
            if fetch is None:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            started = await asyncio.shield(fetch.started)
            if started is None:
                return None
            blob = await self._kept.open(key)
            if blob is not None:
                return self._join(blob, started.size)
        raise StorageError("a file is neither there nor can it be begun")

    async def _begin(self, key: BlobKey, wanted: _AnyWanted) -> Fetch | None:
        """Begin a download; None when somebody else has begun it."""
        await self._take_turn()
        try:
            writer = None if key in self._running else await self._kept.put(key, wanted.room)
            if writer is None:
                self._turns.release()
                return None
        except BaseException:
            self._turns.release()
            raise
        fetch = self._running[key] = Fetch(wanted, writer, self._threads)
        task = self._tasks_of[key] = self._in_background(self._run(key, fetch, wanted))
        task.add_done_callback(lambda _: self._tasks_of.pop(key))
        return fetch

    async def _run(self, key: BlobKey, fetch: Fetch, wanted: _AnyWanted) -> None:
        """One file from its first byte to its end, whoever leaves."""
        try:
            if await fetch.run():
                self.counters.fetched.add()
                if isinstance(wanted, WantedNar):
                    await self.memory.look(wanted.entry)
                    await self.memory.keep(wanted.entry)
        except HarmoniaError as error:
            self.counters.failures.add()
            _log.warning("%s: not kept: %s", key, error)
            if isinstance(wanted, WantedNar) and isinstance(error, UpstreamError):
                # What the upstream said of the file may be what is wrong.
                self.memory.forget(wanted.entry.url.hash_part)
        finally:
            del self._running[key]
            self._turns.release()

    async def _pass(self, wanted: _AnyWanted) -> Download | None:
        """A download for one client alone, where nothing can be kept."""
        await self._take_turn()
        with ExitStack() as held:
            held.callback(self._turns.release)
            body = await wanted.open(None)
            if body is None:
                return None
            stream = Stream(body, wanted)
            held.callback(stream.close)
            size = agreed_size(body, wanted.expected_size)
            if not wanted.as_it_comes:
                size = None
            passage = Passage(stream, wanted.check(), size)
            held.callback(passage.close)
            self.counters.passed.add()
            return Download(
                size=size,
                etag=secrets.token_hex(16),
                pieces=passage.pieces,
                release=held.pop_all().close,
            )

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise StorageError("too many downloads from upstreams are under way") from None

    def _join(self, blob: Blob, size: int | None) -> Download:
        if blob.size is None:
            self.counters.followed.add()
        else:
            self.counters.hits.add()
        # The hash of a file that grows has not been verified: any tag that is unique will do.
        etag = blob.metadata.get("file_hash", secrets.token_hex(16)).removeprefix("sha256:")
        return Download(
            size=size if blob.size is None else blob.size,
            etag=etag,
            pieces=blob.pieces,
            file=blob.file,
            redirect=blob.redirect,
            release=blob.release,
        )

    def _in_background(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(frozen=True, slots=True)
class _Told:
    narinfo: NarInfo
    max_age: float | None


def _offers(entry: Remembered, url: NarUrl) -> bool:
    narinfo = entry.narinfo
    return narinfo.path_info.nar_hash == url.nar_hash and can_become(narinfo.compression, url.compression)


async def _has_begun(blob: Blob) -> bool:
    """Wait for the first byte of a file that another process fetches; False, and released, when it gives up."""
    try:
        async with asyncio.timeout(_BEGIN_SECONDS):
            for piece in blob.pieces(0, 1):
                if not isinstance(piece, Pause):
                    return True
                await asyncio.sleep(piece.seconds)
            return True
    except (StorageError, TimeoutError):
        pass
    blob.release()
    return False
