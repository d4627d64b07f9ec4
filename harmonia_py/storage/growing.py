"""A blob while it is being written: one writer holds a lock on the file, any number of readers follow it.

The lock is `flock(2)` on the growing file itself: it is held by one writer over all processes, and the kernel releases
it when the writer's process dies. A reader never takes it for longer than a test.

The file's modification time is the mark that it is whole: any write sets it to now, and the writer sets it to
`WHOLE_MTIME_NS` after the last byte. So one `fstat` tells a reader how far the file reaches and whether that is all,
before the bytes are durable and the file gets its name.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.storage.metadata import sidecar_of, write_metadata

# One second after the epoch, the time that Nix gives every file of a store: no file that is being written has it.
WHOLE_MTIME_NS: Final = 1_000_000_000
# What takes nothing more and still has what it has; a file system becomes read-only when its disk fails.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
# Short at first, because most NARs are small and take milliseconds; then below what a person or a socket notices.
_FIRST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.016


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn what the operating system says into this project's errors, at the edge where it enters."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageError
        raise kind(f"cannot {action}: {error.strerror}") from error


def try_lock(fd: int) -> bool:
    """Take the writer's lock, unless somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(fd: int) -> bool:
    """Whether a writer holds the lock. The test takes it for a moment, shared, lest readers mislead readers."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one that is named `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


class FileWriter:
    """The `BlobWriter` of a file: it owns the descriptor, and with it the lock."""

    def __init__(self, fd: int, growing: Path, final: Path) -> None:
        self._fd = fd
        self._growing = growing
        self._final = final
        self._size = 0
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data)
        with translated("write a blob"):
            while view:
                count = os.write(self._fd, view)
                self._size += count
                view = view[count:]

    def commit(self, metadata: Mapping[str, str]) -> None:
        """Let readers end, then make the blob durable, then give it its name."""
        if not self._open:
            return
        try:
            with translated("keep a blob"):
                sidecar = write_metadata(self._fd, self._size, metadata)
                now = time.time_ns()
                os.utime(self._fd, ns=(now, WHOLE_MTIME_NS))
                # Without it a power cut can leave a name with holes for bytes. Nobody waits: every reader has ended.
                # The directory is not synced: a blob that loses its name is merely made again.
                os.fdatasync(self._fd)
                self._final.parent.mkdir(exist_ok=True)
                if sidecar is not None:
                    _write_durably(sidecar_of(self._growing), sidecar)
                    sidecar_of(self._growing).rename(sidecar_of(self._final))
                self._growing.rename(self._final)
        except StorageError:
            self.abort()
            raise
        self._close()

    def abort(self) -> None:
        """Remove the file, then release the lock: readers find it gone."""
        if not self._open:
            return
        for path in (self._growing, sidecar_of(self._growing)):
            with suppress(OSError):
                path.unlink()
        self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self._fd)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())


def follow(fd: int, final: Path, start: int, stop: int | None, stall_seconds: float) -> Iterator[Piece]:
    """What a growing file holds from `start` on, as it comes.

    Raises:
        StorageError: its writer gave up, died, or added nothing for `stall_seconds`.
    """
    offset, pause, progress = start, _FIRST_PAUSE_SECONDS, time.monotonic()
    while stop is None or offset < stop:
        with translated("read a growing blob"):
            size, whole = _grown(fd, final)
        end = size if stop is None else min(stop, size)
        if offset < end:
            yield FileSlice(fd, offset, end - offset)
            offset, pause, progress = end, _FIRST_PAUSE_SECONDS, time.monotonic()
        elif whole:
            return
        elif time.monotonic() - progress > stall_seconds:
            raise StorageError("whoever is writing this blob stands still")
        else:
            yield Pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _grown(fd: int, final: Path) -> tuple[int, bool]:
    """How far the file reaches, and whether that is all of it."""
    # The lock first: once it is free, nothing that `fstat` shows will change any more.
    locked = is_locked(fd)
    status = os.fstat(fd)
    if status.st_mtime_ns == WHOLE_MTIME_NS:
        return status.st_size, True
    # Where that mark cannot be set, the name tells.
    if not locked and not is_at(fd, final):
        raise StorageError("whoever was writing this blob has given up")
    return status.st_size, not locked
