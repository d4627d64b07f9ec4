"""NARs compressed in threads of their own, at most so many at once."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Final

from harmonia_py.cache.blobs import BlobWriter
from harmonia_py.cache.kept import metadata_of
from harmonia_py.cache.source import Download, FileSlice, Pause, Piece
from harmonia_py.cache.zstd import NarCompressor, Zstd
from harmonia_py.errors import StorageError
from harmonia_py.nix.path_info import PathInfo

SliceReader = Callable[[FileSlice, bytearray], Iterator[memoryview]]
"""Reads a slice of a file through a buffer. The core opens and reads no file: whoever builds it passes this in."""

# Large enough that a read, a hash and a compression cost more than calling them; it fits the processor's caches.
_BUFFER_BYTES: Final = 1024 * 1024
# A request that has waited so long for its turn is told to come back. Clients give up after 300 seconds.
_LONGEST_WAIT_SECONDS: Final = 60.0
# Files that are whole and on their way to the disk do not keep others from being compressed; many such are written
# about as fast as one. A disk that cannot keep up holds new ones back.
_COMMITS_AT_ONCE: Final = 16
# Where nothing can be kept, so many clients are served at once; each costs the 4 MiB of a compressor.
_STREAMS_AT_ONCE: Final = 64
# Up to here the whole NAR is compressed before its first byte is sent: that takes about a millisecond.
SMALL_NAR_BYTES: Final = 256 * 1024


def _nothing() -> None:
    return


class Compressing:
    """The threads that compress, and the turns that requests take.

    Args:
        read: reads slices of files.
        settings: how to compress.
        at_once: how many NARs.
        prepare_thread: called in each thread first; zstd's own threads inherit the priority it sets.
    """

    def __init__(
        self, *, read: SliceReader, settings: Zstd, at_once: int, prepare_thread: Callable[[], None] = _nothing
    ) -> None:
        self._read = read
        self._settings = settings
        self._places = asyncio.Semaphore(at_once + _COMMITS_AT_ONCE)
        self._turns = asyncio.Semaphore(at_once)
        self._streams = asyncio.Semaphore(_STREAMS_AT_ONCE)
        self._threads = ThreadPoolExecutor(at_once, "compress", initializer=prepare_thread)
        self._committers = ThreadPoolExecutor(_COMMITS_AT_ONCE, "commit")
        self._stopping = threading.Event()

    def compressor(self, path_info: PathInfo) -> NarCompressor:
        """A compressor for the NAR of this path."""
        return NarCompressor(path_info, self._settings)

    async def place(self) -> Callable[[], None]:
        """Wait until another file may be begun; call what is returned when it is committed or aborted.

        Raises:
            StorageError: the wait took too long.
        """
        return await _turn(self._places)

    async def turn(self) -> Callable[[], None]:
        """The same for the time until it is compressed."""
        return await _turn(self._turns)

    async def stream_turn(self) -> Callable[[], None]:
        """The same for `stream`, which one client reads as slowly as it likes."""
        return await _turn(self._streams)

    async def compress(
        self, nar: Download, compressor: NarCompressor, writer: BlobWriter, whole: Callable[[bytes], None]
    ) -> None:
        """Compress `nar` into `writer`, which may be committed when this returns, and is aborted when it raises.

        Args:
            nar: uncompressed; the caller releases it when this has returned.
            compressor: fresh; afterwards it knows the hashes.
            writer: nobody else uses it meanwhile.
            whole: called with the compressed bytes of a small NAR as soon as they are verified.

        Raises:
            NarMismatch: the NAR is not the right one.
            HarmoniaError: it cannot be read, or the blob cannot be written.
        """
        loop = asyncio.get_running_loop()

        def announce(data: bytes) -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(whole, data)

        try:
            await loop.run_in_executor(self._threads, self._compress, nar, compressor, writer, announce)
        except asyncio.CancelledError:
            self._stopping.set()
            raise

    async def commit(self, writer: BlobWriter, compressor: NarCompressor) -> None:
        """Keep what has been compressed.

        Raises:
            StorageError: it cannot be kept.
        """
        await asyncio.get_running_loop().run_in_executor(self._committers, writer.commit, metadata_of(compressor))

    def stop(self) -> None:
        """Give up what is being compressed."""
        self._stopping.set()

    async def aclose(self) -> None:
        """End the threads, once nothing is compressed and committed any more."""
        for threads in (self._threads, self._committers):
            await asyncio.to_thread(threads.shutdown)

    def stream(self, nar: Download, path_info: PathInfo) -> Iterator[Piece]:
        """The compressed NAR for one client alone, where nothing can be kept.

        Raises:
            NarMismatch: at the end, the NAR was not the right one.
        """
        compressor = NarCompressor(path_info, replace(self._settings, threads=0))
        for portion in self._portions(nar):
            if isinstance(portion, Pause):
                yield portion
            elif data := compressor.feed(portion):
                yield data
        yield compressor.finish()

    def _compress(
        self, nar: Download, compressor: NarCompressor, writer: BlobWriter, announce: Callable[[bytes], None]
    ) -> None:
        try:
            small = compressor.path_info.nar_size <= SMALL_NAR_BYTES
            held = []
            for portion in self._portions(nar):
                self._check_stop()
                if isinstance(portion, Pause):
                    time.sleep(portion.seconds)
                elif data := compressor.feed(portion):
                    # What is small is written in one go, because whoever asked for it does not read it from the file.
                    held.append(data) if small else writer.write(data)
            held.append(compressor.finish())
            data = b"".join(held)
            if small:
                announce(data)
            writer.write(data)
        except BaseException:
            writer.abort()
            raise

    def _check_stop(self) -> None:
        if self._stopping.is_set():
            raise StorageError("the server is being shut down")

    def _portions(self, nar: Download) -> Iterator[bytes | memoryview | Pause]:
        buffer = bytearray(_BUFFER_BYTES if nar.size is None else max(1, min(nar.size, _BUFFER_BYTES)))
        pieces = nar.pieces(0, None)
        try:
            for piece in pieces:
                if isinstance(piece, FileSlice):
                    yield from self._read(piece, buffer)
                else:
                    yield piece
        finally:
            if isinstance(pieces, Generator):
                pieces.close()


async def _turn(turns: asyncio.Semaphore) -> Callable[[], None]:
    try:
        async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
            await turns.acquire()
    except TimeoutError:
        raise StorageError("too many NARs are waiting to be compressed") from None
    return turns.release
