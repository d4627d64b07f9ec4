"""A `BlobStore` in a directory that every worker process opens: the part for the event loop, over `directory.py`.

A file that was opened for a request stays open for a while, so that the next requests for the same blob cost neither a
thread nor a system call.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

from harmonia_py.cache.source import FileSlice, Piece
from harmonia_py.contents.blobs import IN_USE, Blob, BlobInfo, BlobKey, SpooledFile
from harmonia_py.errors import StorageError
from harmonia_py.runtime.tasks import end_task
from harmonia_py.runtime.threads import Pool, Threads, in_thread
from harmonia_py.runtime.together import Together
from harmonia_py.storage.descriptor import Descriptor
from harmonia_py.storage.directory import BlobDirectory, WholeFile
from harmonia_py.storage.directory_sync import DirectorySync
from harmonia_py.storage.unchanged import has_cached_beginning, is_unchanged

# Longer than a burst of requests for one blob, short enough that deleting it in another process soon frees the disk.
_KEEP_OPEN_SECONDS: Final = 30.0
_TICK_SECONDS: Final = 30.0
# Blobs that are listed before other tasks run again: a millisecond.
_BREATH: Final = 512


class _OpenFile:
    """A blob that is open in this process, shared by all requests that read it.

    Attributes:
        stays_open: whether the file stays open for the next request; otherwise its last user closes it.
    """

    __slots__ = ("descriptor", "key", "metadata", "opened", "size", "stays_open", "users")

    def __init__(self, whole: WholeFile) -> None:
        self.key = whole.key
        self.size = whole.size
        self.metadata = whole.metadata
        self.descriptor = Descriptor(whole.fd)
        self.opened = time.monotonic()
        self.users = 0
        self.stays_open = True

    def is_unchanged(self) -> bool:
        return is_unchanged(self.descriptor.fd, self.size)

    def pieces(self, start: int, stop: int | None) -> Iterator[Piece]:
        with self.descriptor.borrowed() as fd:
            end = self.size if stop is None else min(stop, self.size)
            if start < end:
                yield FileSlice(fd, start, end - start)


class DiskBlobs:
    """A `BlobStore` in a directory. Enter it inside the event loop that uses it, after any fork.

    Args:
        directory: made if it is not there. A `DiskSpool` whose files are put here must have the same one.
        max_open: number of files that stay open for the next request.
    """

    def __init__(self, directory: Path, *, max_open: int = 256) -> None:
        self._namers = Threads(Pool.NAME)
        self._syncers = Threads(Pool.SYNC)
        self._directory = BlobDirectory(directory, DirectorySync(self._namers), self._syncers)
        self._max_open = max_open
        self._threads = Threads(Pool.BLOBS)
        self._putters = Threads(Pool.PUT)
        # Static narinfos come many at a time: one wait for the disk serves all of them.
        self._texts = Together.in_thread(self._directory.put_texts, partial(in_thread, self._putters))
        self._files: OrderedDict[BlobKey, _OpenFile] = OrderedDict()
        self._readers: dict[BlobKey, int] = {}
        self._uses: dict[BlobKey, float] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._metadata = Together.in_thread(self._directory.metadata_of, self._threads.in_time)
        self._deletions = Together.in_thread(self._directory.delete_all, self._threads.in_time)

    async def __aenter__(self) -> Self:
        """Make the directory.

        Raises:
            StorageError: the directory cannot be written.
        """
        try:
            await self._threads.in_time(self._directory.prepare)
        except BaseException:
            self._threads.give_up()  # as in `DiskSpool`
            raise
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_task(self._ticker)
        await self._metadata.aclose()
        await self._deletions.aclose()
        with suppress(StorageError):
            await self._write_last_uses()
        while self._files:
            self._drop(self._files.popitem()[1])
        await self._texts.aclose()
        await self._putters.aclose()
        await self._namers.aclose()
        await self._syncers.aclose()
        await self._threads.aclose()

    async def open(self, key: BlobKey) -> Blob | None:
        """The blob, from an open file if there is one."""
        file = self._files.get(key)
        if file is not None and not file.is_unchanged():
            self._drop(self._files.pop(key))
            file = None
        if file is None:
            opened = await self._threads.in_time(
                partial(self._directory.open, key), undo=lambda whole: os.close(whole.fd)
            )
            if opened is None:
                return None
            file = self._keep_open(opened)
        return self._blob(file)

    def open_at_once(self, key: BlobKey) -> Blob | None:
        """As in `OpensAtOnce`."""
        file = self._files.get(key)
        if file is not None:
            return self._blob(file) if file.is_unchanged() and has_cached_beginning(file.descriptor.fd) else None
        opened = self._directory.open_at_once(key)
        return None if opened is None else self._blob(self._keep_open(opened))

    def _blob(self, file: _OpenFile) -> Blob:
        """The open file for one more reader."""
        key = file.key
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
            is_unchanged=file.is_unchanged,
            release=partial(self._release, file),
        )

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a blob."""
        file = self._files.get(key)
        if file is not None and file.is_unchanged():
            return file.metadata
        return await self._metadata.ask(key)

    async def put(
        self, key: BlobKey, content: SpooledFile | bytes, metadata: Mapping[str, str], *, durable: bool = False
    ) -> None:
        """Give the blob its name, once its bytes are durable."""
        try:
            if isinstance(content, bytes) and not durable:
                await self._texts.ask((key, content, metadata))
            else:
                await in_thread(self._putters, partial(self._directory.put, key, content, metadata, durable=durable))
        finally:
            file = self._files.pop(key, None)  # the open file is not the one that has the name from now on
            if file is not None:
                self._drop(file)

    async def delete(self, key: BlobKey) -> None:
        """Remove a blob."""
        await self._deletions.ask(key)
        file = self._files.pop(key, None)
        if file is not None:
            self._drop(file)
        self._uses.pop(key, None)

    async def list(self) -> AsyncIterator[BlobInfo]:
        """Every blob, directory by directory."""
        for directory in await self._threads.in_time(self._directory.directories):
            for number, info in enumerate(
                await self._threads.in_time(partial(self._directory.scan, directory)), start=1
            ):
                last_used = IN_USE if info.key in self._readers else self._uses.get(info.key, info.last_used)
                yield info if last_used == info.last_used else BlobInfo(info.key, info.size, last_used)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)

    def _keep_open(self, opened: WholeFile) -> _OpenFile:
        file = self._files.get(opened.key)
        if file is not None:  # two requests opened it at the same time: the first one's file serves both
            self._close(Descriptor(opened.fd))
            return file
        file = self._files[opened.key] = _OpenFile(opened)
        return file

    def _release(self, file: _OpenFile) -> None:
        file.users -= 1
        readers = self._readers.pop(file.key) - 1
        if readers:
            self._readers[file.key] = readers
        if not file.stays_open and not file.users:
            self._close(file.descriptor)

    def _drop(self, file: _OpenFile) -> None:
        file.stays_open = False
        if not file.users:
            self._close(file.descriptor)

    def _close(self, descriptor: Descriptor) -> None:
        # Not in the event loop: closing the last descriptor of a deleted file frees its blocks, for milliseconds.
        self._threads.later(descriptor.close)

    async def _tick(self) -> None:
        """Now and then write the last uses, and close open files, which may have been deleted or replaced meanwhile."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            oldest = time.monotonic() - _KEEP_OPEN_SECONDS
            for key in [key for key, file in self._files.items() if file.opened < oldest]:
                self._drop(self._files.pop(key))
            with suppress(StorageError):
                await self._write_last_uses()

    async def _write_last_uses(self) -> None:
        uses, self._uses = self._uses, {}
        await self._threads.in_time(partial(self._directory.write_last_uses, uses))
