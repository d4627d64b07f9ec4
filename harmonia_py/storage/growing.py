"""A file while it is being written: one writer holds a lock on it, any number of readers follow it.

The lock is `flock(2)` on the growing file itself: it is held by one writer over all processes, and the kernel releases
it when the writer's process dies. A reader takes it only for the moment of a test.

The file's modification time is the mark that it is whole: any write sets it to now, and the writer sets it to
`WHOLE_MTIME_NS` after the last byte. So one `fstat` tells a reader how far the file reaches and whether that is all,
before the bytes are durable and the file gets its name.

A reader shows that it is there by a lock of its own, on a range of bytes that no file has (`fcntl(2)`, open file
description locks): the writer can test for it, and the kernel releases it when the last reader has closed the file.
"""

import fcntl
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from harmonia_py.contents.blobs import SpooledFile
from harmonia_py.storage.errors import translated
from harmonia_py.storage.growth import Growth, Look

# One second after the epoch, the time that Nix gives every file of a store: no file that is being written has it.
WHOLE_MTIME_NS: Final = 1_000_000_000
# The byte that readers lock: the last that a file could have.
_FOLLOWED_BYTE: Final = (1 << 63) - 2
# `struct flock` of Linux, where `off_t` has 64 bits.
_FLOCK: Final = struct.Struct("hhqqi4x")


def try_lock(fd: int) -> bool:
    """Take the writer's lock, unless another writer has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(fd: int) -> bool:
    """Whether a writer holds the lock. The test takes a shared lock, so that testing readers do not see each other."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file has the name `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def is_touched(fd: int) -> bool:
    """Whether a writer has written to the file, or finished it."""
    status = os.fstat(fd)
    return status.st_size > 0 or status.st_mtime_ns == WHOLE_MTIME_NS


def say_followed(fd: int) -> None:
    """Tell the writer, until `fd` is closed, that the file has a reader."""
    # On file systems without such locks a writer does not see readers in other processes, and may give the file up.
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _FOLLOWED_BYTE, 1, 0))


def is_followed(fd: int) -> bool:
    """Whether a reader, in any process, has called `say_followed`; True also where that cannot be told."""
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FOLLOWED_BYTE, 1, 0))
    except OSError:
        return True
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


class FileWriter:
    """The `SpoolWriter` of a file: it owns the descriptor, and with it the lock.

    Args:
        fd: locked by this writer.
        path: of the growing file.
        growth: shows the progress to readers in this process.
    """

    def __init__(self, fd: int, path: Path, growth: Growth) -> None:
        self._fd = fd
        self._path = path
        self._growth = growth
        self._size = 0
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data)
        with translated("write a file"):
            while view:
                count = os.write(self._fd, view)
                self._size += count
                view = view[count:]
        self._growth.note(self._size)

    def finish(self) -> SpooledFile:
        """Mark the file as whole, so that readers end."""
        with translated("finish a file"):
            os.utime(self._fd, ns=(time.time_ns(), WHOLE_MTIME_NS))
        self._growth.note(self._size, whole=True)
        return SpooledFile(str(self._path), self._fd, self._size)

    def is_followed(self) -> bool:
        """Whether a reader, in this process or another, has the file open."""
        return self._growth.is_followed() or is_followed(self._fd)

    def close(self) -> None:
        """Remove the file, if it still has its name here, then release the lock: so readers find it gone."""
        if not self._open:
            return
        self._open = False
        with suppress(OSError):
            if is_at(self._fd, self._path):
                self._path.unlink()
        os.close(self._fd)
        self._growth.note(self._size, closed=True)
        self._growth.leave()


def look(fd: int, path: Path) -> Look:
    """The progress of a file that another process writes at `path`.

    Raises:
        StorageError: it cannot be told.
    """
    with translated("read a growing file"):
        # The lock is tested first: once it is free, what `fstat` shows does not change any more.
        closed = not is_locked(fd)
        status = os.fstat(fd)
        whole = status.st_mtime_ns == WHOLE_MTIME_NS
        if closed and not whole:
            # Where that mark cannot be set the name tells: a file that was given up has none, or that of a growing one.
            whole = status.st_nlink > 0 and not is_at(fd, path)
    return Look(status.st_size, whole, closed)
