"""Partial files in a directory that every worker opens.

partial/<name>    files that come in parts, each locked by the request that adds to it
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from harmonia_py.contents.blobs import SpooledFile
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.errors import translated
from harmonia_py.storage.growing import WHOLE_MTIME_NS, is_at, try_lock
from harmonia_py.storage.private import make_directory, open_new

PARTIAL: Final = "partial"
"""The directory of partial files."""
_OPEN: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_READ_BYTES: Final = 1024 * 1024


class DiskPartialFile:
    """A `PartialFile`: it owns the descriptor, and with it the lock."""

    def __init__(self, fd: int, path: Path) -> None:
        self.size = os.fstat(fd).st_size
        self._fd = fd
        self._path = path

    def write(self, data: bytes) -> None:
        """As in `PartialFile`. If the disk takes only a part of the bytes, that part is in the file."""
        view = memoryview(data)
        with translated("write a part of a file"):
            while view:
                count = os.pwrite(self._fd, view, self.size)
                self.size += count
                view = view[count:]

    def read(self) -> Iterator[bytes]:
        """As in `PartialFile`."""
        offset = 0
        while offset < self.size:
            with translated("read a part of a file"):
                data = os.pread(self._fd, min(_READ_BYTES, self.size - offset), offset)
            if not data:
                return
            yield data
            offset += len(data)

    def spooled(self) -> SpooledFile:
        """As in `PartialFile`."""
        with translated("finish a file"):
            os.utime(self._fd, ns=(time.time_ns(), WHOLE_MTIME_NS))
        return SpooledFile(str(self._path), self._fd, self.size)

    def remove(self) -> None:
        """As in `PartialFile`."""
        with suppress(OSError):
            if is_at(self._fd, self._path):
                self._path.unlink()

    def close(self) -> None:
        """As in `PartialFile`."""
        os.close(self._fd)


class DiskPartialFiles:
    """A `PartialFiles` below `directory`, which its owner has made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / PARTIAL
        self._threads = Threads(Pool.PARTIAL)

    async def aclose(self) -> None:
        """Let go of its threads."""
        await self._threads.aclose()

    async def size(self, name: str) -> int:
        """As in `PartialFiles`."""
        return await self._threads.in_time(lambda: self._size(name))

    async def open(self, name: str) -> DiskPartialFile | None:
        """As in `PartialFiles`."""
        return await self._threads.in_time(lambda: self._open(name), DiskPartialFile.close)

    async def taken(self, prefix: str) -> int:
        """As in `PartialFiles`."""
        return await self._threads.in_time(lambda: self._taken(prefix))

    async def sweep(self, seconds: float) -> int:
        """As in `PartialFiles`."""
        return await self._threads.run(lambda: self._sweep(time.time() - seconds))

    # In threads

    def _size(self, name: str) -> int:
        with translated("look at a part of a file"), suppress(FileNotFoundError):
            return (self._directory / name).stat().st_size
        return 0

    def _taken(self, prefix: str) -> int:
        taken = 0
        with translated("look at parts of files"), suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith(prefix):
                    with suppress(FileNotFoundError):  # it became whole at this moment
                        status = entry.stat(follow_symlinks=False)
                        if status.st_nlink == 1:
                            taken += status.st_size
        return taken

    def _open(self, name: str) -> DiskPartialFile | None:
        path = self._directory / name
        with translated("open a part of a file"):
            make_directory(self._directory)
            while True:
                fd = open_new(path, _OPEN)
                with ExitStack() as held:
                    held.callback(os.close, fd)
                    if not try_lock(fd):
                        return None
                    # The request before may have removed the file, or given it another name.
                    if is_at(fd, path):
                        if os.fstat(fd).st_nlink == 1:
                            file = DiskPartialFile(fd, path)
                            held.pop_all()
                            return file
                        # A process died after it had given the file its name as a blob: nothing may be added to it.
                        path.unlink()

    def _sweep(self, before: float) -> int:
        removed = 0
        with translated("look for parts of files"), suppress(FileNotFoundError):
            for path in list(self._directory.iterdir()):
                with suppress(FileNotFoundError):
                    if path.stat().st_ctime < before:
                        file = self._open(path.name)
                        if file is not None:
                            file.remove()
                            file.close()
                            removed += 1
        return removed
