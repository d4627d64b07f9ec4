"""A bounded directory of copies of files: the part that uses the disk. Everything here blocks, and runs in threads.

    blobs/ growing/ <key>   as in `directory.py`
    .bytes                  how many bytes all copies have, those on their way included; locked while that changes
    .evicting               locked while copies are evicted

All processes of a machine count in `.bytes`. A copy counts from before its first byte is written until its file is
gone: after a process was killed the count may be too high, never too low. A power cut may leave any count. So the files
are counted anew when a process starts, and by each eviction.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from harmonia_py.contents.blobs import BlobInfo, BlobKey, SpooledFile
from harmonia_py.errors import StorageFull
from harmonia_py.storage.directory import BlobDirectory
from harmonia_py.storage.errors import translated
from harmonia_py.storage.growing import WHOLE_MTIME_NS
from harmonia_py.storage.private import open_new
from harmonia_py.storage.s3.unfinished_copy import UnfinishedCopy
from harmonia_py.storage.spool import GROWING, remove_if_dead

_BYTES: Final = ".bytes"
_EVICTING: Final = ".evicting"
# No file larger than this part of the room is copied: it would drive out too many others.
_SHARE: Final = 4
# From this part of the room on the longest unused go, a tenth of all at once, so that the next eviction is not soon.
_FULL: Final = 0.95
_MORE: Final = 10


class Copies:
    """The directory of a `HotBlobs`, used by many threads and processes at once.

    Args:
        directory: of the copies, and of nothing else.
        max_size: bytes that they may take together.
        min_free: bytes of the file system that stay free.
    """

    def __init__(self, directory: Path, max_size: int, min_free: int) -> None:
        self._directory = directory
        self._files = BlobDirectory(directory)
        self._max_size = max_size
        self._min_free = min_free

    @property
    def largest(self) -> int:
        """Bytes up to which a file is copied."""
        return self._max_size // _SHARE

    def prepare(self) -> None:
        """Make the directory.

        Raises:
            StorageError: it cannot be used.
        """
        self._files.prepare()

    def size(self) -> int:
        """Bytes of all copies together.

        Raises:
            StorageError: it cannot be told.
        """
        with translated("count copies"):
            try:
                return _parse((self._directory / _BYTES).read_bytes())
            except FileNotFoundError:  # an administrator has emptied the directory
                return 0

    def begin(self, size: int, sha256: bytes) -> UnfinishedCopy | None:
        """Begin a copy of so many bytes, which have this hash; None while another thread counts.

        Raises:
            StorageFull: others have to go first.
            StorageError: the disk fails.
        """
        with translated("begin a copy"):
            try:
                with self._counting(fcntl.LOCK_NB) as counter:
                    if _count(counter) + size > self._max_size or self._free_bytes() < size:
                        raise StorageFull("the directory of copies has no room")
                    return self._create(counter, size, sha256)
            except BlockingIOError:
                return None

    def keep(self, key: BlobKey, copy: UnfinishedCopy, metadata: Mapping[str, str]) -> None:
        """Make a right copy visible, in the place of one that was there.

        Raises:
            StorageError: it cannot be kept, and is removed.
        """
        try:
            with translated("keep a copy"):
                os.utime(copy.fd, ns=(time.time_ns(), WHOLE_MTIME_NS))
                os.fdatasync(copy.fd)  # before the lock is taken: it may take long
                with self._counting() as counter:
                    before = self._size_of(key)
                    self._files.put(key, SpooledFile(str(copy.path), copy.fd, copy.size), metadata)
                    _add(counter, -before)
        except BaseException:
            self.give_up(copy)
            raise
        os.close(copy.fd)

    def give_up(self, copy: UnfinishedCopy) -> None:
        """Remove an unfinished copy."""
        with suppress(OSError), self._counting() as counter:
            with suppress(FileNotFoundError):
                copy.path.unlink()
            _add(counter, -copy.size)
        os.close(copy.fd)

    def remove(self, key: BlobKey) -> int:
        """Remove a copy; returns its bytes, or 0, without waiting for a lock, when there is none.

        Raises:
            StorageError: it cannot be removed.
        """
        with translated("remove a copy"):
            if not os.path.lexists(self._files.path_of(key)):
                return 0
            with self._counting() as counter:
                size = self._size_of(key)
                self._files.delete(key)
                _add(counter, -size)
                return size

    def recount(self) -> None:
        """Count the files, and remove unfinished copies of killed processes.

        Raises:
            StorageError: the disk fails.
        """
        with translated("count copies"), suppress(BlockingIOError), self._locked(_EVICTING, fcntl.LOCK_NB):
            self._list()

    def make_room(self, wanted: int) -> int:
        """Evict the longest unused copies, if there is no room for so many bytes more or hardly any is left.

        Nothing happens while another thread or process does that. Returns the bytes of the evicted copies.

        Raises:
            StorageError: the disk fails.
        """
        with translated("evict copies"):
            if self._too_much(self.size(), wanted) > 0:
                with suppress(BlockingIOError), self._locked(_EVICTING, fcntl.LOCK_NB):
                    return self._evict(wanted)
        return 0

    def _evict(self, wanted: int) -> int:
        total, infos = self._list()
        too_much = self._too_much(total, wanted)
        size = 0
        if too_much > 0:
            for info in sorted(infos, key=lambda info: info.last_used):
                if size >= too_much + total // _MORE:
                    break
                size += self.remove(info.key)
        return size

    def _too_much(self, total: int, wanted: int) -> int:
        """The bytes that have to go to make room for `wanted` more; 0 or less when none have to."""
        return max(total + wanted - int(_FULL * self._max_size), wanted - self._free_bytes())

    def _list(self) -> tuple[int, Sequence[BlobInfo]]:
        """The bytes of all copies, noted as the count, and the whole copies. None begins or ends meanwhile."""
        with self._counting() as counter:
            total = sum(size for path, size in self._growing() if not remove_if_dead(path))
            infos = [info for each in self._files.directories() for info in self._files.scan(each)]
            total += sum(info.size for info in infos)
            _write(counter, total)
        return total, infos

    def _create(self, counter: int, size: int, sha256: bytes) -> UnfinishedCopy:
        with ExitStack() as undo:
            _add(counter, size)
            undo.callback(_add, counter, -size)
            fd, path = self._files.create()
            undo.callback(os.close, fd)
            undo.callback(path.unlink)
            os.ftruncate(fd, size)  # the size that it is counted with
            undo.pop_all()
        return UnfinishedCopy(fd, path, size, sha256)

    def _growing(self) -> Iterator[tuple[Path, int]]:
        """The unfinished copies, with the bytes that they will have."""
        for path in (self._directory / GROWING).glob(".*"):
            with suppress(FileNotFoundError):
                yield path, path.stat().st_size

    def _size_of(self, key: BlobKey) -> int:
        try:
            return self._files.path_of(key).stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def _free_bytes(self) -> int:
        """The bytes that may still be taken of the file system; less than 0 when too many are taken."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize - self._min_free

    def _counting(self, flags: int = 0) -> AbstractContextManager[int]:
        """The file with the count, locked by this thread while the block runs; `flags` are of `flock`."""
        return self._locked(_BYTES, flags)

    @contextmanager
    def _locked(self, name: str, flags: int) -> Iterator[int]:
        fd = open_new(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | flags)
            yield fd
        finally:
            os.close(fd)


def _add(counter: int, size: int) -> None:
    _write(counter, max(0, _count(counter) + size))


def _count(counter: int) -> int:
    return _parse(os.pread(counter, 32, 0))


def _write(counter: int, size: int) -> None:
    os.pwrite(counter, b"%020d" % size, 0)


def _parse(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
