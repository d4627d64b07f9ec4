"""Blobs as files of a directory: what happens on the disk. Everything here blocks, and runs in threads.

    blobs/<two hexadecimal digits>/<key>   whole blobs, spread by a digest of the key
    growing/<key>                          blobs that are being written, each locked by its writer

A blob gets its place under `blobs` by a rename, when it is whole. The access time of its file is its last use.
"""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harmonia_py.cache.blobs import BlobInfo, BlobKey
from harmonia_py.errors import FormatError, StorageError, StorageFull
from harmonia_py.storage.growing import WHOLE_MTIME_NS, FileWriter, is_at, is_locked, translated, try_lock
from harmonia_py.storage.metadata import read_metadata, sidecar_of

# Whoever loses the race for a name tries again; each round somebody gets further.
_ATTEMPTS: Final = 100
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_PROBE: Final = BlobKey("probe")


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A whole blob, opened; whoever has it closes `fd`."""

    key: BlobKey
    fd: int
    size: int
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GrowingFile:
    """A blob that is being written, opened for reading; `path` is where it will be when it is whole."""

    fd: int
    path: Path


class BlobDirectory:
    """The files of a `DiskBlobs`, used by many threads and processes at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._blobs = directory / "blobs"
        self._growing = directory / "growing"

    def prepare(self) -> None:
        """Make the directory, see that it can be written and locked, and remove what dead writers have left.

        Raises:
            StorageError: it cannot be used.
        """
        with translated("prepare the directory of blobs"):
            self._directory.mkdir(parents=True, exist_ok=True)
            probe = self.put(_PROBE, 0)
            if probe is not None:
                probe.abort()
            for path in list(self._growing.glob("[!.]*")):
                _remove_if_dead(path)
            for sidecar in list(self._growing.glob(".*")):
                if not self._growing.joinpath(sidecar.name[1:].removesuffix(".json")).exists():
                    sidecar.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """How much room an unprivileged process has on the file system."""
        with translated("ask for free space"):
            status = os.statvfs(self._directory)
        # ramfs and some file systems in user space do not know their size: nothing is full that cannot say so.
        return status.f_bavail * status.f_frsize if status.f_blocks else sys.maxsize

    def open(self, key: BlobKey) -> WholeFile | GrowingFile | None:
        """The blob as it is now."""
        path = self._path(key)
        with translated("open a blob"):
            # Twice, because a growing file that is not there may have got its name after the first look.
            return _open_whole(key, path) or _open_growing(self._growing / key, path) or _open_whole(key, path)

    def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a whole blob."""
        with translated("read the metadata of a blob"):
            file = _open_whole(key, self._path(key))
        if file is None:
            return None
        os.close(file.fd)
        return file.metadata

    def metadata_of(self, keys: Sequence[BlobKey]) -> list[Mapping[str, str] | StorageError | None]:
        """The same for many; an error stands in the place of its answer."""
        found: list[Mapping[str, str] | StorageError | None] = []
        for key in keys:
            try:
                found.append(self.metadata(key))
            except StorageError as error:
                found.append(error)
        return found

    def put(self, key: BlobKey, expected_size: int, *, replace: bool = False) -> FileWriter | None:
        """Begin to write a blob, unless it is being written, or there and not to be replaced."""
        if self.free_bytes() < expected_size:
            raise StorageFull("there is no room for a blob of this size")
        with translated("begin a blob"):
            for directory in (self._blobs, self._growing):
                directory.mkdir(exist_ok=True)  # each time: somebody may have emptied the cache while it runs
            for _ in range(_ATTEMPTS):
                fd = os.open(self._growing / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                try:
                    claim = self._claim(fd, key, replace=replace)
                except BaseException:
                    os.close(fd)
                    raise
                if isinstance(claim, FileWriter):
                    return claim
                os.close(fd)
                if not claim:
                    return None
        raise StorageError("cannot begin a blob: too many want its name")

    def _claim(self, fd: int, key: BlobKey, *, replace: bool) -> FileWriter | bool:
        """A writer if this growing file is ours to write, else whether another attempt may succeed."""
        growing = self._growing / key
        if not try_lock(fd):
            return False
        if not is_at(fd, growing):  # whoever had the lock before has renamed or removed it
            return True
        if _is_touched(fd):  # by a writer that died; it may still have readers, so it is not reused
            growing.unlink()
            return True
        if replace or self.metadata(key) is None:
            return FileWriter(fd, growing, self._path(key))
        growing.unlink()
        return False

    def delete(self, key: BlobKey) -> None:
        """Remove a whole blob."""
        path = self._path(key)
        with translated("delete a blob"):
            # In this order a crash in between leaves a blob without metadata, which nobody takes for whole.
            for name in (sidecar_of(path), path):
                with suppress(FileNotFoundError):
                    name.unlink()

    def write_last_uses(self, uses: Mapping[BlobKey, float]) -> None:
        """Write down when blobs were last used, in seconds since the epoch."""
        with translated("write down last uses"):
            for key, last_used in uses.items():
                with suppress(FileNotFoundError):
                    os.utime(self._path(key), ns=(int(last_used * 1e9), WHOLE_MTIME_NS))

    def last_arrival(self) -> int:
        """When the last blob was begun, became whole, or was given up, in nanoseconds since the epoch; 0 for never."""
        with translated("look for new blobs"), suppress(FileNotFoundError):
            return self._growing.stat().st_mtime_ns
        return 0

    def parts(self) -> list[Path]:
        """The directories that `scan` takes one by one."""
        with translated("list blobs"):
            return list(self._blobs.iterdir())

    def scan(self, part: Path) -> list[BlobInfo]:
        """The blobs in one directory."""
        with translated("list blobs"):
            fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return list(_scan(fd))
            finally:
                os.close(fd)

    def _path(self, key: BlobKey) -> Path:
        # Keys may all begin alike, so their own characters would not spread them: 100,000 blobs make 400 per directory.
        return self._blobs / hashlib.blake2b(key.encode(), digest_size=1).hexdigest() / key


def _scan(directory: int) -> Iterator[BlobInfo]:
    for name in os.listdir(directory):
        try:
            key = BlobKey.parse(name)
            # By name, which is shorter for the kernel than a path, and with other threads running meanwhile.
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, FormatError):  # deleted meanwhile, or a sidecar
            continue
        yield BlobInfo(key, status.st_size, status.st_atime)


def _open_whole(key: BlobKey, path: Path) -> WholeFile | None:
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(fd).st_size
        metadata = read_metadata(fd, path, size)
    except BaseException:
        os.close(fd)
        raise
    if metadata is None:
        os.close(fd)
        return None
    return WholeFile(key, fd, size, metadata)


def _open_growing(growing: Path, path: Path) -> GrowingFile | None:
    try:
        fd = os.open(growing, _READ)
    except FileNotFoundError:
        return None
    alive = False
    try:
        alive = is_locked(fd)
    finally:
        if not alive:  # the rest of a writer that died, or one that has just ended
            os.close(fd)
    return GrowingFile(fd, path) if alive else None


def _is_touched(fd: int) -> bool:
    status = os.fstat(fd)
    return status.st_size > 0 or status.st_mtime_ns == WHOLE_MTIME_NS


def _remove_if_dead(path: Path) -> None:
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)  # NFS wants to write what it locks exclusively
        try:
            if try_lock(fd) and is_at(fd, path):
                path.unlink()
        finally:
            os.close(fd)
