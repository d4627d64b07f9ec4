"""A `BlobStore` in a directory that every worker process opens: how the event loop sees `directory.py`.

Files that were asked for stay open for a while, so that a blob many want costs neither a thread nor a system call.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from harmonia_py.cache.blobs import Blob, BlobInfo, BlobKey
from harmonia_py.cache.lasting import Watch
from harmonia_py.cache.source import FileSlice, Piece
from harmonia_py.errors import StorageError
from harmonia_py.storage.descriptor import Descriptor
from harmonia_py.storage.directory import BlobDirectory, GrowingFile, WholeFile
from harmonia_py.storage.growing import FileWriter, follow

T = TypeVar("T")

# They wait for the disk, not for the processor; more of them would only lengthen the disk's queue.
_THREADS: Final = 4
# A disk that has not answered by then will not answer in time for any client.
_TIMEOUT_SECONDS: Final = 30.0
# A blob that nobody adds to for so long has a writer that hangs; clients give up after 300 seconds.
_STALL_SECONDS: Final = 120.0
# Longer than a burst of requests for one blob, short enough that deleting it in another process soon frees the disk.
_KEEP_OPEN_SECONDS: Final = 30.0
_TICK_SECONDS: Final = 30.0
# A blob that another process has finished is unknown for so long at most.
_ARRIVAL_SECONDS: Final = 1.0
# So many blobs are listed before others may run again: a millisecond.
_BREATH: Final = 512


class _OpenFile:
    """A whole blob that is open in this process, shared by all who read it."""

    __slots__ = ("descriptor", "kept", "key", "metadata", "opened", "size", "users")

    def __init__(self, whole: WholeFile) -> None:
        self.key = whole.key
        self.size = whole.size
        self.metadata = whole.metadata
        self.descriptor = Descriptor(whole.fd)
        self.opened = time.monotonic()
        self.users = 0
        self.kept = True

    def pieces(self, start: int, stop: int | None) -> Iterator[Piece]:
        with self.descriptor.borrowed() as fd:
            end = self.size if stop is None else min(stop, self.size)
            if start < end:
                yield FileSlice(fd, start, end - start)


class DiskBlobs:
    """A `BlobStore` in a directory. Enter it inside the event loop that uses it, after any fork.

    Args:
        directory: made if it is not there; its file system must support `flock`.
        max_open: how many files stay open for the next request.

    Attributes:
        arrivals: whether a blob may have become whole, in whichever process.
    """

    def __init__(self, directory: Path, *, max_open: int = 256) -> None:
        self._directory = BlobDirectory(directory)
        self._max_open = max_open
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")
        self._files: OrderedDict[BlobKey, _OpenFile] = OrderedDict()
        self._readers: dict[BlobKey, int] = {}
        self._uses: dict[BlobKey, float] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._asked: list[tuple[BlobKey, asyncio.Future[Mapping[str, str] | None]]] = []
        self._answering: asyncio.Task[None] | None = None
        self.arrivals = Watch(lambda: self._in_thread(self._directory.last_arrival), seconds=_ARRIVAL_SECONDS)

    async def __aenter__(self) -> Self:
        """Make the directory, and remove what writers that died have left.

        Raises:
            StorageError: the directory cannot be written.
        """
        try:
            await self._in_thread(self._directory.prepare)
        except BaseException:
            self._threads.shutdown(wait=False)
            raise
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._ticker is not None
        self._ticker.cancel()
        await asyncio.wait([self._ticker, *([self._answering] if self._answering is not None else [])])
        with suppress(StorageError):
            await self._write_last_uses()
        while self._files:
            self._drop(self._files.popitem()[1])
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._threads.shutdown), _TIMEOUT_SECONDS)

    async def open(self, key: BlobKey) -> Blob | None:
        """The whole blob, from an open file if there is one; or the growing one."""
        file = self._files.get(key)
        if file is None:
            opened = await self._in_thread(partial(self._directory.open, key), undo=_close)
            if opened is None:
                return None
            if isinstance(opened, GrowingFile):
                return self._growing_blob(opened)
            file = self._keep_open(opened)
        file.users += 1
        self._readers[key] = self._readers.get(key, 0) + 1
        self._uses[key] = time.time()
        self._files.move_to_end(key)
        while len(self._files) > self._max_open:
            self._drop(self._files.popitem(last=False)[1])
        return Blob(
            size=file.size,
            metadata=file.metadata,
            pieces=file.pieces,
            file=FileSlice(file.descriptor.fd, 0, file.size),
            release=partial(self._release, file),
        )

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a whole blob."""
        file = self._files.get(key)
        if file is not None:
            return file.metadata
        # A closure's worth of questions comes at once, and a thread and back takes longer than the answer: those that
        # come while others are being answered share the next thread.
        answer: asyncio.Future[Mapping[str, str] | None] = asyncio.get_running_loop().create_future()
        self._asked.append((key, answer))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())
        return await answer

    async def put(self, key: BlobKey, expected_size: int, *, replace: bool = False) -> FileWriter | None:
        """Begin to write a blob."""
        file = self._files.pop(key, None) if replace else None
        if file is not None:
            self._drop(file)
        return await self._in_thread(partial(self._directory.put, key, expected_size, replace=replace), undo=_abort)

    async def delete(self, key: BlobKey) -> None:
        """Remove a whole blob."""
        await self._in_thread(partial(self._directory.delete, key))
        file = self._files.pop(key, None)
        if file is not None:
            self._drop(file)
        self._uses.pop(key, None)

    async def list(self) -> AsyncIterator[BlobInfo]:
        """Every whole blob, directory by directory."""
        for part in await self._in_thread(self._directory.parts):
            for number, info in enumerate(await self._in_thread(partial(self._directory.scan, part)), start=1):
                last_used = self._uses.get(info.key, info.last_used)
                yield info if last_used == info.last_used else BlobInfo(info.key, info.size, last_used)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)

    async def free_bytes(self) -> int:
        """How much room an unprivileged process has on the file system."""
        return await self._in_thread(self._directory.free_bytes)

    def in_use(self) -> frozenset[BlobKey]:
        """The blobs that somebody in this process is reading."""
        return frozenset(self._readers)

    def _growing_blob(self, growing: GrowingFile) -> Blob:
        descriptor = Descriptor(growing.fd)

        def pieces(start: int, stop: int | None) -> Iterator[Piece]:
            with descriptor.borrowed() as fd:
                yield from follow(fd, growing.path, start, stop, stall_seconds=_STALL_SECONDS)

        return Blob(size=None, metadata={}, pieces=pieces, release=partial(self._close, descriptor))

    def _keep_open(self, opened: WholeFile) -> _OpenFile:
        file = self._files.get(opened.key)
        if file is not None:  # two asked at the same time: the first one's file serves both
            self._close(Descriptor(opened.fd))
            return file
        file = self._files[opened.key] = _OpenFile(opened)
        return file

    def _release(self, file: _OpenFile) -> None:
        file.users -= 1
        readers = self._readers.pop(file.key) - 1
        if readers:
            self._readers[file.key] = readers
        if not file.kept and not file.users:
            self._close(file.descriptor)

    def _drop(self, file: _OpenFile) -> None:
        file.kept = False
        if not file.users:
            self._close(file.descriptor)

    def _close(self, descriptor: Descriptor) -> None:
        # Not in the event loop: closing the last descriptor of a deleted file frees its blocks, for milliseconds.
        try:
            self._threads.submit(descriptor.close)
        except RuntimeError:  # the threads have ended; whoever still had this blob is the last to go
            descriptor.close()

    async def _answer(self) -> None:
        while self._asked:
            await asyncio.sleep(0)  # until everybody who is about to ask has asked
            asked, self._asked = self._asked, []
            found: Sequence[Mapping[str, str] | StorageError | None]
            try:
                found = await self._in_thread(partial(self._directory.metadata_of, [key for key, _ in asked]))
            except StorageError as error:
                found = [error] * len(asked)
            for (_, answer), metadata in zip(asked, found, strict=True):
                if answer.done():
                    continue
                if isinstance(metadata, StorageError):
                    answer.set_exception(metadata)
                else:
                    answer.set_result(metadata)

    async def _tick(self) -> None:
        """Now and then write down the last uses, and close files, in case their names mean others by now."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            oldest = time.monotonic() - _KEEP_OPEN_SECONDS
            for key in [key for key, file in self._files.items() if file.opened < oldest]:
                self._drop(self._files.pop(key))
            with suppress(StorageError):
                await self._write_last_uses()

    async def _write_last_uses(self) -> None:
        uses, self._uses = self._uses, {}
        await self._in_thread(partial(self._directory.write_last_uses, uses))

    async def _in_thread(self, work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Run `work` in a thread; when nobody is there any more to take its result, `undo` it."""
        future = self._threads.submit(work)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await asyncio.wrap_future(future)
        except (asyncio.CancelledError, TimeoutError) as error:
            if undo is not None:
                future.add_done_callback(partial(_undo, undo))
            if isinstance(error, TimeoutError):
                raise StorageError("the disk does not answer in time") from error
            raise


def _close(opened: WholeFile | GrowingFile | None) -> None:
    if opened is not None:
        os.close(opened.fd)


def _abort(writer: FileWriter | None) -> None:
    if writer is not None:
        writer.abort()


def _undo(undo: Callable[[T], None], future: "Future[T]") -> None:
    if not future.cancelled() and future.exception() is None:
        undo(future.result())
