"""The `.nar.zst` of a store path: made once, by the first download, and kept.

Over all worker processes one compresses a NAR and writes it into the blob store; everybody who wants it, the client
that came first included, reads the blob as it grows. So a client that leaves cancels nothing. The NAR is verified on
the way, and only the right one is finished: of another one every client's connection is cut.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Final, Self

from harmonia_py.cache.blobs import Blob, BlobKey, BlobStore, BlobWriter
from harmonia_py.cache.compressed_figures import CompressedCounters
from harmonia_py.cache.compressing import SMALL_NAR_BYTES, Compressing
from harmonia_py.cache.kept import FileFacts, KeptFiles, Mismatch, NotKept, key_of
from harmonia_py.cache.lasting import Lasting, Watch
from harmonia_py.cache.source import Download, Pause, Piece, Source
from harmonia_py.cache.zstd import NarCompressor, NarMismatch
from harmonia_py.errors import HarmoniaError, StorageError, StorePathChanged
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath

_log = logging.getLogger(__name__)

# Between being told that somebody else writes a blob and finding it there lies a rename; far fewer attempts will do.
_ATTEMPTS: Final = 100
_RETRY_SECONDS: Final = 0.005
# A path whose files are wrong is not read again for each request; soon enough after it has been repaired.
_MISMATCH_REST_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Job:
    """One file being made.

    Attributes:
        reading: what ends when the NAR has been read; not with the request that began it.
        writing: what ends when the file is kept or given up.
        verified: the bytes of a small file, as soon as they are known to be right.
    """

    key: BlobKey
    nar: Download
    compressor: NarCompressor
    writer: BlobWriter
    reading: ExitStack
    writing: ExitStack
    verified: "asyncio.Future[bytes]"


class CompressedNars:
    """A `Source` that offers the NARs of another one as zstd files.

    Args:
        inner: has NARs without compression; everything else it has is passed on.
        blobs: where files are kept; None when there is no place, and then every download is compressed anew.
        compressing: how, and how many at once. It is closed with this source.
        counters: what is counted; nobody else sees it unless it is given.
        arrivals: whether a file may have been finished, in whichever process.
    """

    def __init__(
        self,
        inner: Source,
        blobs: BlobStore | None,
        compressing: Compressing,
        counters: CompressedCounters | None = None,
        *,
        arrivals: Watch | None = None,
    ) -> None:
        self.counters = counters or CompressedCounters()
        self._inner = inner
        self._kept = KeptFiles(blobs, arrivals)
        self._compressing = compressing
        self._running: dict[BlobKey, asyncio.Task[HarmoniaError | None]] = {}
        self._mismatched: dict[BlobKey, float] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up what is being compressed. The transfers that need it have ended or are cut."""
        self._compressing.stop()
        while self._running:
            await asyncio.wait(self._running.values())
        await self._compressing.aclose()

    async def narinfo(self, hash_part: HashPart) -> NarInfo | None:
        """The narinfo with the zstd file as the place of the NAR, and what is known of that file."""
        narinfo = await self._inner.narinfo(hash_part)
        if narinfo is None or narinfo.compression != "none":
            return narinfo
        url = NarUrl(hash_part, narinfo.path_info.nar_hash, "zstd")
        facts = await self._kept.facts(key_of(url))
        return replace(
            narinfo,
            url=str(url),
            compression="zstd",
            file_hash=facts.file_hash if facts is not None else None,
            file_size=facts.file_size if facts is not None else None,
        )

    def lasting(self, narinfo: NarInfo) -> Lasting | None:
        """How long what this source says in `narinfo` of the file is right; None when nobody knows."""
        url = NarUrl(narinfo.path_info.store_path.hash_part, narinfo.path_info.nar_hash, "zstd")
        hash_, size = narinfo.file_hash, narinfo.file_size
        return self._kept.lasting(key_of(url), None if hash_ is None or size is None else FileFacts(hash_, size))

    async def nar(self, url: NarUrl) -> Download | None:
        """The kept file, or the file as it grows, or whatever the inner source says of another URL.

        Raises:
            StorePathChanged: the files of the store path have just been found to be wrong.
        """
        if url.compression != "zstd" or url.nar_hash is None:
            return await self._inner.nar(url)
        key = key_of(url)
        try:
            blob = await self._kept.open(key)
            if blob is not None:
                return self._join(key, blob)
            path_info = await self._wanted(url)
            return None if path_info is None else await self._begin(url, key, path_info)
        except NotKept:
            return await self._unkept(url)

    async def listing(self, hash_part: HashPart) -> Download | None:
        """What the inner source says."""
        return await self._inner.listing(hash_part)

    async def log(self, derivation: StorePath | HashPart) -> Download | None:
        """What the inner source says."""
        return await self._inner.log(derivation)

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What the inner source says."""
        return await self._inner.realisation(output)

    async def keep(self, url: NarUrl) -> bool:
        """See that the file of `url`, a URL of this source, is kept; False when there is no such store path.

        Raises:
            HarmoniaError: it cannot be made or kept.
        """
        key = key_of(url)
        download = await self.nar(url)
        if download is None:
            return False
        with download:
            task = self._running.get(key)
            if task is not None:
                failure = await asyncio.shield(task)
                if failure is not None:
                    raise failure
            elif download.size is None:
                await _read_to_the_end(download)
        if await self._kept.facts(key) is None:
            raise StorageError("the compressed NAR cannot be kept")
        return True

    async def mismatches(self) -> list[Mismatch]:
        """The NARs that were found to be wrong, by any process, and not found right since."""
        return await self._kept.mismatches()

    async def _wanted(self, url: NarUrl) -> PathInfo | None:
        """The path whose NAR it is, unless that is known to be wrong."""
        ending = self._running.get(key_of(url))
        if ending is not None:  # its file is gone already, and in a moment it is known why
            await asyncio.wait([ending])
        narinfo = await self._inner.narinfo(url.hash_part)
        if narinfo is None or narinfo.path_info.nar_hash != url.nar_hash:
            return None
        if self._mismatched.get(key_of(url), 0.0) > time.monotonic():
            raise StorePathChanged(f"the NAR of {narinfo.path_info.store_path} has just been found to be wrong")
        return narinfo.path_info

    async def _begin(self, url: NarUrl, key: BlobKey, path_info: PathInfo) -> Download | None:
        """Begin to compress, or join whoever has begun meanwhile."""
        for _ in range(_ATTEMPTS):
            with ExitStack() as writing, ExitStack() as reading:
                writing.callback(await self._compressing.place())
                reading.callback(await self._compressing.turn())
                blob = await self._kept.open(key)
                if blob is not None:
                    return self._join(key, blob)
                nar = await self._inner.nar(replace(url, compression="none"))
                if nar is None:
                    return None
                reading.enter_context(nar)
                writer = await self._kept.put(key, path_info.nar_size)
                if writer is not None:
                    compressor = self._compressing.compressor(path_info)
                    verified: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                    return await self._first(
                        _Job(key, nar, compressor, writer, reading.pop_all(), writing.pop_all(), verified)
                    )
            await asyncio.sleep(_RETRY_SECONDS)
        raise StorageError("a compressed NAR is neither there nor can it be begun")

    async def _first(self, job: _Job) -> Download:
        """The download that begins the file."""
        self.counters.misses.add()
        self._running[job.key] = asyncio.create_task(self._run(job))
        if job.compressor.path_info.nar_size <= SMALL_NAR_BYTES:
            data = await asyncio.shield(job.verified)
            return Download.of_bytes(data, job.compressor.file_hash.nix32)
        blob = await self._kept.open(job.key)
        if blob is None:
            raise StorageError("the compressed NAR was given up at once")
        return self._download(job.key, blob)

    async def _run(self, job: _Job) -> HarmoniaError | None:
        """One file from its beginning to its end, whoever leaves; what went wrong, if anything did."""
        failure: HarmoniaError | None = None
        try:
            with job.writing:
                with job.reading:
                    announce = partial(_resolve, job.verified)
                    await self._compressing.compress(job.nar, job.compressor, job.writer, announce)
                await self._compressing.commit(job.writer, job.compressor)
            self._note_kept(job)
            await self._kept.unmark(job.key)
        except NarMismatch as error:
            failure = error
            self._note_mismatch(job.key, error)
            await self._kept.mark(job.key, error)
        except HarmoniaError as error:
            failure = error
            self.counters.failures.add()
            _log.warning("%s: not compressed: %s", job.compressor.path_info.store_path, error)
        finally:
            # One that has given its file up may be followed by another before it gets here.
            if self._running.get(job.key) is asyncio.current_task():
                del self._running[job.key]
            if not job.verified.done():
                job.verified.set_exception(failure or StorageError("compressing was given up"))
                job.verified.exception()  # often nobody waits for it
        return failure

    async def _unkept(self, url: NarUrl) -> Download | None:
        path_info = await self._wanted(url)
        if path_info is None:
            return None
        with ExitStack() as held:
            held.callback(await self._compressing.stream_turn())
            nar = await self._inner.nar(replace(url, compression="none"))
            if nar is None:
                return None
            held.enter_context(nar)
            self.counters.unkept.add()
            return Download(
                size=None,
                etag=secrets.token_hex(16),
                pieces=partial(self._unkept_pieces, key_of(url), nar, path_info),
                release=held.pop_all().close,
            )

    def _unkept_pieces(
        self, key: BlobKey, nar: Download, path_info: PathInfo, _start: int, _stop: int | None
    ) -> Iterator[Piece]:
        # Without a size there are no ranges: it is always everything that is asked for.
        try:
            yield from self._compressing.stream(nar, path_info)
        except NarMismatch as error:
            self._note_mismatch(key, error)
            raise

    def _join(self, key: BlobKey, blob: Blob) -> Download:
        if blob.size is None:
            self.counters.followed.add()
        else:
            self.counters.hits.add()
        return self._download(key, blob)

    def _download(self, key: BlobKey, blob: Blob) -> Download:
        # The hash of a file that grows is not known: any tag that is unique will do.
        etag = blob.metadata.get("file_hash", secrets.token_hex(16)).removeprefix("sha256:")
        return Download(
            size=blob.size,
            etag=etag,
            pieces=blob.pieces,
            file=blob.file,
            redirect=blob.redirect,
            whole=partial(self._whole, key) if blob.size is None else None,
            release=blob.release,
        )

    async def _whole(self, key: BlobKey) -> Download | None:
        blob = await self._kept.whole(key)
        return None if blob is None else self._download(key, blob)

    def _note_kept(self, job: _Job) -> None:
        self.counters.nar_bytes.add(job.compressor.path_info.nar_size)
        self.counters.file_bytes.add(job.compressor.file_size)
        self._kept.learn(job.key, FileFacts(job.compressor.file_hash, job.compressor.file_size))

    def _note_mismatch(self, key: BlobKey, error: NarMismatch) -> None:
        self.counters.mismatches.add()
        now = time.monotonic()
        self._mismatched = {key: until for key, until in self._mismatched.items() if until > now}
        self._mismatched[key] = now + _MISMATCH_REST_SECONDS
        _log.critical(
            "%s is damaged: the NarHash of its files is %s, the store says %s; `nix-store --repair-path` may help",
            error.path_info.store_path,
            error.nar_hash or "that of a longer NAR",
            error.path_info.nar_hash,
        )


def _resolve(future: "asyncio.Future[bytes]", data: bytes) -> None:
    if not future.done():
        future.set_result(data)


async def _read_to_the_end(download: Download) -> None:
    """Wait until another process has made the file whole, without copying it."""
    pieces = download.pieces(0, None)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if isinstance(piece, Pause):
            await asyncio.sleep(piece.seconds)
