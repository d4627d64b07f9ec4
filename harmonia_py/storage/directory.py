"""Blobs as files of a directory: what happens on the disk. Everything here blocks, and runs in threads.

    <key>                                  blobs whose key has several components
    blobs/<two hexadecimal digits>/<key>   blobs whose key has one component, spread by a digest of it
    growing/.<random>                      blobs that are written at once, until they are whole

A blob gets its place by a rename, when it is whole. The access time of its file is its last use.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from msgspec import Struct

from harmonia_py.contents.blobs import BlobInfo, BlobKey, SpooledFile
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.storage.cached_open import CachedOpen, can_tell
from harmonia_py.storage.directory_sync import DirectorySync
from harmonia_py.storage.errors import translated
from harmonia_py.storage.file_naming import FileNaming
from harmonia_py.storage.metadata import look_at_metadata, read_metadata, sidecar_of
from harmonia_py.storage.partial_files import PARTIAL
from harmonia_py.storage.private import make_directory
from harmonia_py.storage.spool import GROWING
from harmonia_py.storage.unchanged import has_cached_beginning, is_marked, is_right

P = ParamSpec("P")
T = TypeVar("T")

_BLOBS: Final = "blobs"
# So many small blobs are written before the first becomes whole; each is an open file.
_TEXTS: Final = 64
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class WholeFile(Struct, frozen=True):
    """A blob, opened; its owner closes `fd`."""

    key: BlobKey
    fd: int
    size: int
    metadata: Mapping[str, str]


class BlobDirectory:
    """The files of a `DiskBlobs`, used by many threads and processes at once.

    Args:
        directory: of the blobs.
        names: makes a name durable while its file becomes so; None where no name is to be durable.
        syncs: make small files durable at the same time; None where none are put together.
    """

    def __init__(self, directory: Path, names: DirectorySync | None = None, syncs: Executor | None = None) -> None:
        self._directory = directory
        self._blobs = directory / _BLOBS
        self._naming = FileNaming(directory / GROWING, names, syncs)
        # None where opening a file may wait for more than its path.
        self._cached_open: CachedOpen | None = None

    def prepare(self) -> None:
        """Make the directory, and look whether its files can be opened at once.

        Raises:
            StorageError: it cannot be used.
        """
        with translated("prepare the directory of blobs"):
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            make_directory(self._directory)
            make_directory(self._blobs)
        if can_tell(self._directory) and can_tell(self._blobs):
            self._cached_open = CachedOpen()

    def open(self, key: BlobKey) -> WholeFile | None:
        """The blob as it is now."""
        with translated("open a blob"):
            return _open_whole(key, self.path_of(key))

    def open_at_once(self, key: BlobKey) -> WholeFile | None:
        """The blob, if the kernel has its name and its first bytes in memory; None says nothing. It does not block."""
        fd = None if self._cached_open is None else self._cached_open.open(self._text_of(key))
        if fd is None:
            return None
        try:
            status = os.fstat(fd)
            if is_marked(status) and stat.S_ISREG(status.st_mode) and has_cached_beginning(fd):
                # It was read together with the first bytes the last time, so it is in memory as they are.
                metadata = look_at_metadata(fd, status.st_size)
                if metadata is not None:
                    return WholeFile(key, fd, status.st_size, metadata)
        except OSError:  # its metadata are in a sidecar
            pass
        os.close(fd)
        return None

    def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a blob."""
        with translated("read the metadata of a blob"):
            file = _open_whole(key, self.path_of(key))
        if file is None:
            return None
        os.close(file.fd)
        return file.metadata

    def metadata_of(self, keys: Sequence[BlobKey]) -> list[Mapping[str, str] | StorageError | None]:
        """The metadata of many blobs, in the order of `keys`; for a blob that cannot be read, the error."""
        return [_or_error(self._look_or_open, key) for key in keys]

    def _look_or_open(self, key: BlobKey) -> Mapping[str, str] | None:
        seen = _look(self._text_of(key))
        return self.metadata(key) if seen is None else seen

    def put(
        self, key: BlobKey, content: SpooledFile | bytes, metadata: Mapping[str, str], *, durable: bool = False
    ) -> None:
        """Give a whole file its name, once its bytes cannot be lost."""
        with translated("keep a blob"):
            self._naming.put(self.path_of(key), content, metadata, durable=durable)

    def put_texts(self, texts: Sequence[tuple[BlobKey, bytes, Mapping[str, str]]]) -> list[StorageError | None]:
        """Put small blobs; for each that cannot be kept, the error.

        All are written before the disk is waited for, and it is waited for together. They appear in this order.
        """
        errors: list[StorageError | None] = []
        for start in range(0, len(texts), _TEXTS):
            some = texts[start : start + _TEXTS]
            try:
                with translated("keep blobs"):
                    self._naming.put_together(
                        [(self.path_of(key), content, metadata) for key, content, metadata in some]
                    )
                errors += [None] * len(some)
            except StorageError:
                errors += [_or_error(self.put, *text) for text in some]
        return errors

    def create(self) -> tuple[int, Path]:
        """A new file, open and locked, under a name of its own from which `put` takes it."""
        return self._naming.create()

    def delete(self, key: BlobKey) -> None:
        """Remove a blob."""
        path = self.path_of(key)
        with translated("delete a blob"):
            # In this order a crash in between leaves a blob without metadata, which is not taken for whole.
            for name in (sidecar_of(path), path):
                with suppress(FileNotFoundError):
                    name.unlink()

    def delete_all(self, keys: Sequence[BlobKey]) -> list[StorageError | None]:
        """Remove many blobs; in the order of `keys`, for a blob that cannot be removed, the error."""
        return [_or_error(self.delete, key) for key in keys]

    def write_last_uses(self, uses: Mapping[BlobKey, float]) -> None:
        """Write down when blobs were last used, in seconds since the epoch."""
        with translated("write down last uses"):
            for key, last_used in uses.items():
                with suppress(FileNotFoundError):
                    path = self.path_of(key)
                    # Not the mark: another program may have written to the file since it was used.
                    os.utime(path, ns=(int(last_used * 1e9), path.stat().st_mtime_ns))

    def directories(self) -> list[Path]:
        """The directories that `scan` takes one by one."""
        with translated("list blobs"):
            found = list(self._blobs.iterdir())
            for top in self._directory.iterdir():
                is_ours = top.name in (_BLOBS, GROWING, PARTIAL) or top.name.startswith(".")
                if not is_ours and top.is_dir():
                    found += [Path(path) for path, _, _ in os.walk(top)]
            return found

    def scan(self, directory: Path) -> list[BlobInfo]:
        """The blobs in one directory."""
        prefix = "" if directory.parent == self._blobs else f"{directory.relative_to(self._directory)}/"
        with translated("list blobs"):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return list(_scan(fd, prefix))
            finally:
                os.close(fd)

    def path_of(self, key: BlobKey) -> Path:
        """The path of the blob. Its first component must not be one of the names in the module's docstring."""
        return Path(self._text_of(key))

    def _text_of(self, key: BlobKey) -> str:
        """The path as text: to make a `Path` takes twice as long as to look at its file."""
        first, slash, _ = key.partition("/")
        if not slash:
            # Keys may all begin alike: their own characters would not spread them. Of 100,000 each directory has 400.
            return f"{self._blobs}/{hashlib.blake2b(key.encode(), digest_size=1).hexdigest()}/{key}"
        if first in (_BLOBS, GROWING, PARTIAL):
            raise StorageError(f"no blob can be kept below {first}/")
        return f"{self._directory}/{key}"


def _or_error(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | StorageError:
    """What the call returns, or the error that it fails with: one of many keys does not stop the others."""
    try:
        return call(*args, **kwargs)
    except StorageError as error:
        return error


def _scan(directory: int, prefix: str) -> Iterator[BlobInfo]:
    for name in os.listdir(directory):
        try:
            key = BlobKey.parse(prefix + name)
            # By name, which is shorter for the kernel than a path, and with other threads running meanwhile.
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, FormatError):  # deleted meanwhile, or a sidecar
            continue
        if stat.S_ISREG(status.st_mode):
            yield BlobInfo(key, status.st_size, status.st_atime)


def _look(path: str) -> Mapping[str, str] | None:
    """The metadata of a whole file that was not left by a power cut; None: opening it can tell.

    Of ten thousand paths that a client asks for, this takes a third of the time that opening their files takes.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and is_marked(status):
            return look_at_metadata(path, status.st_size)
    except OSError:  # also a file that is replaced at this moment
        pass
    return None


def _open_whole(key: BlobKey, path: Path) -> WholeFile | None:
    try:
        fd = os.open(path, _READ)
    except FileNotFoundError:
        return None
    with ExitStack() as held:
        held.callback(os.close, fd)
        status = os.fstat(fd)
        metadata = read_metadata(fd, path, status.st_size)
        if metadata is None or not (is_marked(status) or is_right(fd, path.name, status, metadata)):
            return None
        held.pop_all()
    return WholeFile(key, fd, status.st_size, metadata)
