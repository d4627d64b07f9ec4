"""Files inside store paths, found without ever leaving the store.

A store path may hold symbolic links to anywhere: every user that may add to the store can make them. So the kernel is
never given a path to resolve: every component is opened by itself, below the directory that was opened before it and
never through a link. The target of a link is read from the very link that was opened and taken apart here. It may lead
to another place in the same store path, or to another store path, which must be valid: that is found out first.

A file is looked at after it was opened, through the descriptor that is then sent: when a file or a directory is
replaced meanwhile, the walk still does not leave the store.
"""

import os
import stat
import threading
from collections.abc import Generator, Sequence
from errno import EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, ESTALE
from typing import Final, Self

from msgspec import Struct

from harmonia_py.cache.source import FileSlice, Piece
from harmonia_py.cache.tree import Entry, Kind
from harmonia_py.errors import FormatError, StorageError, describe_os_error
from harmonia_py.nix.store_path import StoreDir, StorePath

# As many as Linux follows itself; also how many store paths one request may lead through.
MAX_LINKS: Final = 40
# Entries that a page can show; further ones are counted. To look at so many takes some ten milliseconds.
MAX_ENTRIES: Final = 10_000

# O_PATH only finds out what something is: a FIFO is not waited for, and a device does not notice.
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER: Final = _LOOK | os.O_DIRECTORY
# The store directory itself may be reached through links: it is the administrator's choice.
_ENTER_STORE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK the opening of a FIFO that took a file's place since it was looked at would wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_READ_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
ABSENT: Final = frozenset({EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, ESTALE})
_NOWHERE: Final = (b"", b".")


class OpenFile:
    """A regular file, open until its last user has released it.

    A request may be cancelled while a thread sends from the descriptor: the descriptor is closed when that thread is
    done. A request may also be cancelled before it took this object from the thread that made it: the interpreter then
    closes the descriptor, when it collects the object.
    """

    __slots__ = ("_fd", "_lock", "_users", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._fd = fd
        self._users = 1
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if self._users:
            os.close(self._fd)

    def pieces(self, start: int, stop: int | None) -> Generator[Piece, None, None]:
        """The bytes from `start` up to `stop`."""
        with self._lock:
            if self._users == 0:
                raise StorageError("the file is closed already")
            self._users += 1
        try:
            end = self.size if stop is None else min(stop, self.size)
            if start < end:
                yield FileSlice(self._fd, start, end - start)
        finally:
            self.release()

    def release(self) -> None:
        """One user less. The caller that was given the file calls it once; the last user closes the descriptor."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                os.close(self._fd)


class FoundFile(Struct, frozen=True):
    """A regular file; `place` is where it is in the end, below the store directory."""

    place: tuple[bytes, ...]
    file: OpenFile


class FoundDirectory(Struct, frozen=True):
    """The entries of a directory: the first ones, and how many there are."""

    entries: tuple[Entry, ...]
    total: int


class Walk:
    """The way from the store directory to a file, component by component.

    Args:
        store_dir: the logical one, which absolute links name.
        real_store: the directory with the files.
        components: the base name of a store path, and what a client asked for inside it. A slash or a zero byte in one
            of them is refused; `..` means what it means to the kernel, but nothing above a store path.
    """

    def __init__(self, store_dir: StoreDir, real_store: str, components: Sequence[bytes]) -> None:
        self._store_dir = os.fsencode(store_dir).split(b"/")[1:]
        self._real_store = real_store
        self._allowed: set[bytes] = set()
        self._left = [*reversed(components)]  # the next one last
        self._place: list[bytes] = []  # directories below the store directory, each in the one before
        self._links = 0

    def allow(self, store_path: StorePath) -> None:
        """Enter a store path, which is valid."""
        self._allowed.add(store_path.encode())

    def run(self) -> StorePath | FoundFile | FoundDirectory | None:
        """Go on to the end, or to a store path that is to be allowed before the next call. It blocks.

        Raises:
            StorageError: something cannot be read.
        """
        try:
            with Below(self._real_store) as below:
                return self._run(below)
        except FormatError:
            return None
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise StorageError(f"a file of the store path cannot be read: {describe_os_error(error)}") from error

    def _run(self, below: "Below") -> StorePath | FoundFile | FoundDirectory | None:
        while self._left:
            name = self._left.pop()
            if name in _NOWHERE:
                continue
            if name == b"..":
                if not self._place:
                    return None
                self._place.pop()
                continue
            if not self._place and name not in self._allowed:
                self._left.append(name)
                return StorePath.parse(name.decode("ascii", "replace")) if len(self._allowed) < MAX_LINKS else None
            mode = below.look(self._place, name)
            if stat.S_ISDIR(mode):
                self._place.append(name)
            elif stat.S_ISLNK(mode):
                if not self._follow(below.target()):
                    return None
            elif not stat.S_ISREG(mode) or self._left:
                return None
            else:
                file = below.open(self._place, name)
                return None if file is None else FoundFile((*self._place, name), file)
        # The entries of the store directory itself are not shown: they would tell every hash part.
        return below.entries(self._place) if self._place else None

    def _follow(self, target: bytes) -> bool:
        """Go where a link leads; False when that is out of the store, or one link too many."""
        self._links += 1
        parts = target.split(b"/")
        if target.startswith(b"/"):
            parts = [part for part in parts if part not in _NOWHERE]
            length = len(self._store_dir)
            if parts[:length] != self._store_dir:
                return False
            parts = parts[length:] + ([b"."] if target.endswith((b"/", b"/.")) else [])
            self._place.clear()
        self._left += reversed(parts)
        return self._links <= MAX_LINKS


class Below:
    """Looks below a directory of a store without following a link. It keeps two descriptors open, however deep."""

    def __init__(self, real_store: str) -> None:
        self._real_store = real_store
        self._directory = -1
        self._at: list[bytes] | None = None  # where `_directory` is
        self._seen = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def look(self, place: list[bytes], name: bytes) -> int:
        """The mode of `name` in the directory `place`, itself and not where it leads."""
        if b"/" in name or b"\0" in name:
            raise FormatError("not one component of a path")
        self._enter(place)
        if self._seen >= 0:
            os.close(self._seen)
            self._seen = -1
        self._seen = os.open(name, _LOOK, dir_fd=self._directory)
        mode = os.fstat(self._seen).st_mode
        if stat.S_ISDIR(mode):
            self._seen, self._directory = self._directory, self._seen
            self._at = [*place, name]
        return mode

    def target(self) -> bytes:
        """The target of the link that was looked at."""
        return os.readlink(b"", dir_fd=self._seen)

    def open(self, place: list[bytes], name: bytes) -> OpenFile | None:
        """The regular file `name` in the directory `place`, unless it is something else by now."""
        self._enter(place)
        fd = os.open(name, _READ, dir_fd=self._directory)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            return None
        return OpenFile(fd, status.st_size)

    def entries(self, place: list[bytes]) -> FoundDirectory:
        """The entries of the directory `place`; of kinds that no store path has, none."""
        self._enter(place)
        fd = os.open(b".", _READ_DIRECTORY, dir_fd=self._directory)
        try:
            names = sorted(map(os.fsencode, os.listdir(fd)))  # noqa: PTH208  # a Path would decode and join every name
            entries = (_entry(fd, name) for name in names[:MAX_ENTRIES])
            return FoundDirectory(tuple(entry for entry in entries if entry is not None), len(names))
        finally:
            os.close(fd)

    def _enter(self, place: list[bytes]) -> None:
        if place == self._at:
            return
        self._close()
        self._directory, self._at = os.open(self._real_store, _ENTER_STORE), []
        for name in place:
            parent, self._directory = self._directory, os.open(name, _ENTER, dir_fd=self._directory)
            os.close(parent)
        self._at = [*place]

    def _close(self) -> None:
        for fd in (self._directory, self._seen):
            if fd >= 0:
                os.close(fd)
        self._directory = self._seen = -1
        self._at = None


def _entry(directory: int, name: bytes) -> Entry | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return Entry(name, Kind.REGULAR, size=status.st_size, executable=bool(status.st_mode & stat.S_IXUSR))
        if stat.S_ISDIR(status.st_mode):
            return Entry(name, Kind.DIRECTORY)
        if stat.S_ISLNK(status.st_mode):
            return Entry(name, Kind.SYMLINK, target=os.readlink(name, dir_fd=directory))
    except OSError as error:
        if error.errno not in ABSENT:
            raise
    return None
