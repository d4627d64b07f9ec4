"""A `Spool` in a directory that every worker process opens.

growing/<key>    files that are being written, each locked by its writer
"""

import asyncio
import hashlib
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.spool import GrowingFile
from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.errors import translated
from harmonia_py.storage.growing import FileWriter, is_at, is_locked, is_touched, look, say_followed, try_lock
from harmonia_py.storage.growth import Growth
from harmonia_py.storage.private import make_directory, open_new

# A writer that loses the race for a name tries again; in each round one of them wins.
_ATTEMPTS: Final = 100
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MAX_NAME: Final = 244
# A process that was killed holds its locks until it has ended, on a busy machine for a second or two.
_LOOK_AGAIN_SECONDS: Final = 10.0
_PROBE: Final = BlobKey("probe")
GROWING: Final = "growing"
"""The directory of growing files, and of files that are written in one go and have no other name yet."""


class _Begun(NamedTuple):
    """A file that is locked, and opened once more for its readers: a lock belongs to an open file."""

    fd: int
    reader: int
    path: Path


class DiskSpool:
    """A `Spool` whose files grow below `directory`. Enter it inside the event loop that uses it, after any fork.

    Args:
        directory: made if it is not there; its file system must support `flock`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._growing = directory / GROWING
        self._threads = Threads(Pool.SPOOL)
        self._second_look: asyncio.TimerHandle | None = None
        # The files that this process writes, and those of other processes that it follows.
        self._written: dict[BlobKey, Growth] = {}
        self._followed: dict[BlobKey, Growth] = {}

    async def __aenter__(self) -> Self:
        """Make the directory, and remove files that dead writers have left.

        Raises:
            StorageError: the directory cannot be written.
        """
        try:
            locked = await self._threads.in_time(self._prepare)
        except BaseException:
            self._threads.give_up()  # a disk that does not answer would hold up what waits for its threads
            raise
        if locked:
            look = partial(self._threads.later, partial(_remove_dead, locked))
            self._second_look = asyncio.get_running_loop().call_later(_LOOK_AGAIN_SECONDS, look)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._second_look is not None:
            self._second_look.cancel()
        for growth in list(self._followed.values()):
            await growth.aclose()
        await self._threads.aclose()

    async def begin(self, key: BlobKey, expected_size: int) -> FileWriter | None:
        """A writer that holds the lock of a new file."""
        found = await self._threads.in_time(partial(self._begin, key, expected_size), undo=_undo)
        if found is None:
            return None
        fd, reader, path = found
        growth = self._written[key] = Growth(reader, partial(self._ended, self._written, key))
        return FileWriter(fd, path, growth)

    async def follow(self, key: BlobKey) -> GrowingFile | None:
        """The growing file; shared with its writer or other readers in this process, else opened from the disk."""
        growth = _in_use(self._written, key) or _in_use(self._followed, key)
        if growth is None:
            fd = await self._threads.in_time(partial(self._open, key), undo=os.close)
            if fd is None:
                return None
            growth = _in_use(self._followed, key)
            if growth is not None:  # opened by another reader meanwhile
                self._threads.later(partial(os.close, fd))
            else:
                ended = partial(self._ended, self._followed, key)
                growth = self._followed[key] = Growth(
                    fd, ended, partial(look, fd, self._path(key)), self._threads.in_time
                )
        return GrowingFile(growth.pieces, growth.reaches_beyond, growth.closed, growth.leave)

    async def free_bytes(self) -> int:
        """The free bytes that an unprivileged process has on the file system."""
        return await self._threads.in_time(self._free_bytes)

    def _ended(self, growths: dict[BlobKey, Growth], key: BlobKey, growth: Growth) -> None:
        if growths.get(key) is growth:
            del growths[key]
        # Not in the event loop: closing the last descriptor of a deleted file frees its blocks, for milliseconds.
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # this is a thread already
            os.close(growth.fd)
        else:
            self._threads.later(partial(os.close, growth.fd))

    def _path(self, key: BlobKey) -> Path:
        # All files are in one directory: one look finds those that dead writers have left.
        name = key.replace("/", ",")
        return self._growing / (name if len(name) <= _MAX_NAME else hashlib.sha256(name.encode()).hexdigest())

    # In threads

    def _prepare(self) -> list[Path]:
        """Make the directory, remove what dead writers have left, and return the files that are locked."""
        with translated("prepare the directory of growing files"):
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            make_directory(self._directory)
            probe = self._begin(_PROBE, 0)
            if probe is not None:
                _undo(probe)
            return _remove_dead(self._growing.iterdir())

    def _free_bytes(self) -> int:
        with translated("ask for free space"):
            status = os.statvfs(self._directory)
        # ramfs and some file systems in user space do not know their size: nothing is full that cannot say so.
        return status.f_bavail * status.f_frsize if status.f_blocks else sys.maxsize

    def _begin(self, key: BlobKey, expected_size: int) -> _Begun | None:
        if self._free_bytes() < expected_size:
            raise StorageFull("there is no room for a file of this size")
        path = self._path(key)
        with translated("begin a file"):
            make_directory(self._growing)  # each time: an administrator may have emptied the cache while it runs
            for _ in range(_ATTEMPTS):
                fd = open_new(path, _CREATE)
                with ExitStack() as held:
                    held.callback(os.close, fd)
                    if not try_lock(fd):
                        return None
                    if is_at(fd, path) and not is_touched(fd):
                        begun = _Begun(fd, os.open(path, _READ), path)
                        held.pop_all()
                        return begun
                    # The writer before may have renamed or removed the file, or died with readers at the file.
                    if is_at(fd, path):
                        path.unlink()
        raise StorageError("cannot begin a file: too many want its name")

    def _open(self, key: BlobKey) -> int | None:
        with translated("open a growing file"):
            try:
                fd = os.open(self._path(key), _READ)
            except FileNotFoundError:
                return None
            with ExitStack() as held:
                held.callback(os.close, fd)
                if not is_locked(fd):
                    return None  # left by a writer that died, or that has just ended
                say_followed(fd)
                held.pop_all()
            return fd


def _in_use(growths: dict[BlobKey, Growth], key: BlobKey) -> Growth | None:
    """The growth under this key, with one use more; None when there is none, or its writer has ended."""
    growth = growths.get(key)
    return growth if growth is not None and not growth.is_closed and growth.use() else None


def _undo(begun: _Begun) -> None:
    with suppress(OSError):
        begun.path.unlink()
    os.close(begun.reader)
    os.close(begun.fd)


def _remove_dead(paths: Iterable[Path]) -> list[Path]:
    """Remove those of these growing files whose writers have ended; returns the others."""
    return [path for path in paths if not remove_if_dead(path)]


def remove_if_dead(path: Path) -> bool:
    """Remove a growing file if its writer has ended; returns whether it was removed."""
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)  # NFS wants to write what it locks exclusively
        try:
            if try_lock(fd) and is_at(fd, path):
                path.unlink()
                return True
        finally:
            os.close(fd)
    return False
