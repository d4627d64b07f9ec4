"""The NAR of a store path on disk: its parts, and its bytes from any offset on.

Source: `src/libutil/posix-source-accessor.cc` and `src/libutil/archive.cc` of Nix. Everything here is synchronous and
may wait for the disk: it runs in a thread. Directories are opened one below the other and never through a symbolic
link, so a directory that is replaced by a link while it is read does not lead out of the store path.
"""

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing
from errno import EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, ESTALE
from typing import Final

from harmonia_py.cache.source import FileSlice, Piece
from harmonia_py.errors import FormatError, StorageError, StorePathChanged, describe_os_error
from harmonia_py.nix.layout import FilePart, Layout
from harmonia_py.nix.nar import MAX_DEPTH, Directory, DirectoryEnd, Event, Regular, Symlink

# Below this a read and a copy into the next piece cost less than a sendfile of its own.
_SMALL: Final = 64 * 1024
# Small files and what stands between them are gathered until a piece is this large; it exceeds it by one file at most.
# Larger pieces leave the processor's cache before they are joined and sent.
_PIECE: Final = 256 * 1024

# Without O_NONBLOCK the opening of a FIFO that took a file's place would wait for its writer.
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY
# The bits of a mode that an archive knows of, and what they are for a file that is not or is executable.
_KIND: Final = 0o170000 | stat.S_IXUSR
_REGULAR: Final = (stat.S_IFREG, stat.S_IFREG | stat.S_IXUSR)
_CHANGED: Final = frozenset({EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, ESTALE})


def read_error(error: OSError) -> StorePathChanged | StorageError:
    """Our error for an `OSError` from a store path."""
    if error.errno in _CHANGED:
        return StorePathChanged(f"a file of the store path vanished or is of another kind: {describe_os_error(error)}")
    return StorageError(f"a file of the store path cannot be read: {describe_os_error(error)}")


def scan(path: str | bytes) -> Generator[Event, None, None]:
    """The tree at `path`, which may be a file, a symbolic link or a directory, as events.

    Raises:
        StorePathChanged: it is not there, something vanished meanwhile, or it is of a kind no store path has.
        StorageError: something cannot be read.
    """
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            yield from _scan_directory(path)
        elif stat.S_ISREG(status.st_mode):
            yield Regular(b"", status.st_size, bool(status.st_mode & stat.S_IXUSR))
        elif stat.S_ISLNK(status.st_mode):
            yield Symlink(b"", os.readlink(os.fsencode(path)))  # noqa: PTH115  # a Path would normalise the target
        else:
            raise StorePathChanged("a store path is no file, directory or symbolic link")
    except OSError as error:
        raise read_error(error) from error


def _scan_directory(path: str | bytes) -> Iterator[Event]:
    yield Directory(b"")
    fds = [os.open(path, _OPEN_DIRECTORY)]
    try:
        levels = [_entries(fds[0])]
        while levels:
            for name, entry in levels[-1]:
                if len(fds) >= MAX_DEPTH:
                    raise StorageError("the directories of a store path are nested more deeply than Nix allows")
                if entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield Regular(name, status.st_size, bool(status.st_mode & stat.S_IXUSR))
                elif entry.is_symlink():
                    yield Symlink(name, os.readlink(name, dir_fd=fds[-1]))
                elif not entry.is_dir(follow_symlinks=False):
                    raise StorePathChanged("something in a store path is no file, directory or symbolic link")
                else:
                    yield Directory(name)
                    fds.append(os.open(name, _OPEN_DIRECTORY, dir_fd=fds[-1]))
                    levels.append(_entries(fds[-1]))
                    break
            else:
                levels.pop()
                os.close(fds.pop())
                yield DirectoryEnd()
    finally:
        for fd in fds:
            os.close(fd)


def _entries(fd: int) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    with os.scandir(fd) as entries:
        named = [(os.fsencode(entry.name), entry) for entry in entries]
    # Names differ, so entries are never compared. Nix sorts by bytes; the order of str differs where surrogates are.
    named.sort()
    return iter(named)


def layout_of(path: str | bytes) -> Layout:
    """The layout of the tree at `path`, scanned now.

    Raises:
        StorePathChanged: it is not there, something vanished meanwhile, or it is of a kind no store path has.
        StorageError: something cannot be read, or exceeds the limits of a NAR.
    """
    with closing(scan(path)) as events:
        try:
            return Layout.of(events)
        except FormatError as error:
            raise StorageError(f"a store path cannot be archived: {error}") from error


def dump(path: str | bytes, layout: Layout, start: int = 0, stop: int | None = None) -> Generator[Piece, None, None]:
    """The bytes `start` up to `stop` of the NAR of `path`, as `layout` says it is.

    Small files come gathered in pieces of about 256 KiB, large ones as slices of an open file. It holds descriptors
    until it is exhausted or closed.

    Raises:
        StorePathChanged: a file vanished, or is not of the kind, size and mode of the layout. What was yielded
            before is as right as sizes can tell.
        StorageError: something cannot be read.
    """
    files = _Files(path, layout)
    gathered: list[bytes] = []
    size = 0
    try:
        for segment in layout.segments(start, stop):
            if isinstance(segment, bytes):
                data = segment
            elif segment.size <= _SMALL:
                data = files.read(segment)
            else:
                if gathered:
                    yield b"".join(gathered)
                    gathered.clear()
                    size = 0
                yield from files.slice(segment)
                continue
            gathered.append(data)
            size += len(data)
            if size >= _PIECE:
                yield from _pieces(b"".join(gathered))
                gathered.clear()
                size = 0
        if gathered:
            yield from _pieces(b"".join(gathered))
    except OSError as error:
        raise read_error(error) from error
    finally:
        files.close()


def _pieces(data: bytes) -> Iterator[bytes]:
    if len(data) <= 2 * _PIECE:
        yield data
        return
    # Only what stands between files becomes so long: a forest of symbolic links.
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]


class _Files:
    """Opens the files of a tree, given in the order of its layout; it keeps the directories above the last one open."""

    __slots__ = ("_directories", "_directory", "_fd", "_layout", "_path")

    def __init__(self, path: str | bytes, layout: Layout) -> None:
        self._path = path
        self._layout = layout
        self._directories: dict[int, int] = {}  # number of each open directory -> descriptor, from the root down
        self._directory = -1
        self._fd: int | None = None  # of the directory the last file was in

    def read(self, part: FilePart) -> bytes:
        """The bytes of `part`, all of them."""
        fd = self._open(part.file)
        try:
            data = os.pread(fd, part.size, part.offset)
        finally:
            os.close(fd)
        if len(data) != part.size:
            raise StorePathChanged("a file of the store path became shorter")
        return data

    def slice(self, part: FilePart) -> Iterator[FileSlice]:
        """`part` as a slice, whose descriptor is closed when the iterator is resumed or closed."""
        fd = self._open(part.file)
        try:
            yield FileSlice(fd, part.offset, part.size)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the directories."""
        while self._directories:
            os.close(self._directories.popitem()[1])

    def _open(self, file: int) -> int:
        layout = self._layout
        directory = layout.directories[file]
        if directory < 0:
            fd = os.open(self._path, _OPEN_FILE)
        else:
            if directory != self._directory:
                self._enter(directory)
            fd = os.open(layout.names[file], _OPEN_FILE, dir_fd=self._fd)
        status = os.fstat(fd)
        if status.st_size != layout.sizes[file] or status.st_mode & _KIND != _REGULAR[layout.executables[file]]:
            os.close(fd)
            raise StorePathChanged("a file of the store path is of another kind, size or mode")
        return fd

    def _enter(self, directory: int) -> None:
        below = []
        following = directory
        while following >= 0 and following not in self._directories:
            below.append(following)
            following = self._layout.directory_parents[following]
        while self._directories and next(reversed(self._directories)) != following:
            os.close(self._directories.popitem()[1])
        fd = self._directories.get(following)
        for number in reversed(below):
            name = self._layout.directory_names[number]
            fd = os.open(name if number else self._path, _OPEN_DIRECTORY, dir_fd=fd)
            self._directories[number] = fd
        self._directory, self._fd = directory, fd
