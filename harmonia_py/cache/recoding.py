"""What is kept as xz or otherwise, made into zstd in the background: xz limits a client to some 100 Mbit/s per core."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from harmonia_py.cache.blobs import Blob
from harmonia_py.cache.compressing import SliceReader
from harmonia_py.cache.fetch import Fetch
from harmonia_py.cache.file_check import FileCheck
from harmonia_py.cache.kept import KeptFiles, NotKept, key_of
from harmonia_py.cache.remembered import NarinfoMemory, Remembered
from harmonia_py.cache.source import FileSlice
from harmonia_py.cache.unpack import NarCheck
from harmonia_py.cache.upstream import Body, Resume
from harmonia_py.errors import HarmoniaError, UpstreamError
from harmonia_py.nix.narinfo import NarUrl

_log = logging.getLogger(__name__)

_BUFFER_BYTES = 256 * 1024


def _nothing() -> None:
    return


class Recoding:
    """One file after the other, by threads of their own.

    Args:
        kept: where files are kept.
        memory: learns what is offered from then on.
        read: reads slices of files.
        prepare_thread: called in each thread first.
    """

    def __init__(
        self,
        kept: KeptFiles,
        memory: NarinfoMemory,
        read: SliceReader,
        prepare_thread: Callable[[], None] = _nothing,
    ) -> None:
        self._kept = kept
        self._memory = memory
        self._read = read
        self._turn = asyncio.Lock()
        self._threads = ThreadPoolExecutor(1, "recode", initializer=prepare_thread)

    async def recode(self, entry: Remembered) -> None:
        """Make a zstd file of what is kept, verify it on the way, and remove what it was made of."""
        async with self._turn:
            if entry.compression == "zstd" or entry.facts is None:
                return
            source = entry.url
            info = entry.narinfo.path_info
            target = NarUrl(source.hash_part, info.nar_hash, "zstd")
            # As it is now, whatever is found out about it meanwhile.
            wanted = _KeptNar(entry, self._kept, self._read, self._threads)
            try:
                writer = await self._kept.put(key_of(target), info.nar_size)
                if writer is None:
                    return
                if await Fetch(wanted, writer, self._threads, self._threads).run():
                    await self._memory.look(entry)
                    await self._kept.forget(key_of(source))
            except (NotKept, HarmoniaError) as error:
                _log.warning("%s: not re-coded: %s", info.store_path, error)

    async def aclose(self) -> None:
        """End the thread, once nothing is re-coded any more."""
        await asyncio.to_thread(self._threads.shutdown)


class _KeptNar:
    """A kept file in the place of an upstream's."""

    def __init__(self, entry: Remembered, kept: KeptFiles, read: SliceReader, threads: ThreadPoolExecutor) -> None:
        assert entry.facts is not None
        self._entry = entry
        self._facts = entry.facts
        self._compression = entry.compression
        self._url = entry.url
        self._kept = kept
        self._read = read
        self._threads = threads

    @property
    def expected_size(self) -> int | None:
        """See `Wanted`."""
        return self._facts.file_size

    @property
    def as_it_comes(self) -> bool:
        """See `Wanted`."""
        return False

    @property
    def room(self) -> int:
        """See `Wanted`."""
        return self._entry.narinfo.path_info.nar_size

    def check(self) -> FileCheck:
        """See `Wanted`."""
        facts = self._facts
        path_info = self._entry.narinfo.path_info
        return NarCheck(path_info, self._compression, facts.file_hash, facts.file_size, "zstd")

    async def open(self, resume: Resume | None) -> Body | None:
        """See `Wanted`."""
        assert resume is None
        blob = await self._kept.open(key_of(self._url))
        if blob is None:
            return None
        if blob.size is None:
            blob.release()
            return None
        portions = self._portions(blob)

        async def read() -> bytes:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: next(portions, b""))

        return Body(size=blob.size, start=0, validator=None, encoding=None, max_age=None, read=read, close=blob.release)

    def _portions(self, blob: Blob) -> Iterator[bytes]:
        buffer = bytearray(_BUFFER_BYTES)
        for piece in blob.pieces(0, None):
            if isinstance(piece, FileSlice):
                for portion in self._read(piece, buffer):
                    yield bytes(portion)

    def blame(self, error: UpstreamError) -> None:
        """What rots on the disk is found by `verify`."""

    async def arrived(self) -> None:
        """See `Wanted`."""
