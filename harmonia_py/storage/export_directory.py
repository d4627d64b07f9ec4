"""A directory that a web server serves: files that appear whole, for everybody to read."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.contents.pieces import whole_portions
from harmonia_py.errors import StorageError
from harmonia_py.storage.errors import translated

_FILE_MODE: Final = 0o644
# Nix makes them before it reads a cache at file://, which only a user can who may write there: libstore's
# local-binary-cache-store.cc.
_DIRECTORIES: Final = ("nar", "log", "realisations")
_PORTION: Final = 16 * 1024 * 1024


class ExportDirectory:
    """An `ExportTarget`.

    Args:
        directory: made if it is not there.
        link: whether a file of a NAR is linked where that is possible, instead of copied. Then it takes no room, and is
            the file that the cache itself serves: a user who may write to the one may write to the other.
    """

    def __init__(self, directory: Path, *, link: bool = False) -> None:
        self._directory = directory
        self._link = link

    async def make(self) -> None:
        """As in `ExportTarget`."""
        await asyncio.to_thread(self._make)

    async def has(self, name: str, size: int) -> bool:
        """As in `ExportTarget`."""
        return await asyncio.to_thread(self._has, name, size)

    async def put(self, name: str, data: bytes) -> bool:
        """As in `ExportTarget`."""
        return await asyncio.to_thread(self._put, name, data)

    async def copy(self, name: str, download: Download) -> None:
        """As in `ExportTarget`."""
        await asyncio.to_thread(self._copy, name, download)

    def _make(self) -> None:
        with translated("write an exported file"):
            for name in _DIRECTORIES:
                (self._directory / name).mkdir(parents=True, exist_ok=True)

    def _has(self, name: str, size: int) -> bool:
        try:
            return (self._directory / name).stat().st_size == size
        except FileNotFoundError:
            return False

    def _put(self, name: str, data: bytes) -> bool:
        with translated("write an exported file"):
            with suppress(FileNotFoundError):
                if (self._directory / name).read_bytes() == data:
                    return False
            with self._appearing(name) as temporary:
                temporary.write_bytes(data)
        return True

    def _copy(self, name: str, download: Download) -> None:
        file = download.file
        with translated("write an exported file"), self._appearing(name) as temporary:
            if self._link and file is not None:
                with suppress(OSError):  # another file system
                    _link(file.fd, temporary)
                    return
            with temporary.open("wb") as out:
                if file is not None:
                    _copy_file(file, out.fileno())
                else:  # chunks, or what is in a bucket
                    for portion in whole_portions(download.pieces(0, None)):
                        out.write(portion)

    @contextmanager
    def _appearing(self, name: str) -> Iterator[Path]:
        """A path beside the file; what is there at the end gets the name, durably."""
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            yield temporary
            fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fchmod(fd, _FILE_MODE)
                os.fsync(fd)
            finally:
                os.close(fd)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)


def _copy_file(file: FileSlice, target: int) -> None:
    offset, end = file.offset, file.offset + file.size
    while offset < end:
        count = _send(file.fd, target, offset, min(_PORTION, end - offset))
        if not count:
            raise StorageError("a kept file has become shorter while it was exported")
        offset += count


def _link(fd: int, path: Path) -> None:
    """Give an open file one more name."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a directory Python calls linkat(2), which follows the link; link(2) does not.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=root)
    finally:
        os.close(root)


def _send(source: int, target: int, offset: int, size: int) -> int:
    """Copy inside the kernel, which shares blocks where the file system can."""
    try:
        return os.copy_file_range(source, target, size, offset)
    except OSError:  # two file systems, or one that cannot
        return os.write(target, os.pread(source, size, offset))
