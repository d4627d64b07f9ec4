"""Gives whole files their names in a directory of blobs, at the price of as few waits for the disk as can be.

Everything here blocks, and runs in threads. A name never leads to bytes that a power cut can take.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from harmonia_py.contents.blobs import SpooledFile
from harmonia_py.runtime.durable import sync_directory
from harmonia_py.storage.directory_sync import DirectorySync
from harmonia_py.storage.growing import WHOLE_MTIME_NS, is_at, try_lock
from harmonia_py.storage.metadata import sidecar_of, write_metadata
from harmonia_py.storage.private import make_directory, open_new

# The threads of `Pool.SYNC`.
_SHARES: Final = 4


class FileNaming:
    """Gives whole files their names; used by many threads and processes at once.

    Args:
        growing: the directory of files that are not whole yet.
        names: makes a name durable while its file becomes so; None where no name is to be durable.
        syncs: make small files durable at the same time; None where none are put together.
    """

    def __init__(self, growing: Path, names: DirectorySync | None, syncs: Executor | None) -> None:
        self._growing = growing
        self._names = names
        self._syncs = syncs

    def put(self, path: Path, content: SpooledFile | bytes, metadata: Mapping[str, str], *, durable: bool) -> None:
        """Give a whole file its name, once its bytes cannot be lost.

        Raises:
            OSError: that cannot be done.
        """
        if isinstance(content, SpooledFile):
            self._put(path, content, metadata, durable=durable)
            return
        with self.temporary(content) as file:
            self._put(path, file, metadata, durable=durable)

    def put_together(self, texts: Sequence[tuple[Path, bytes, Mapping[str, str]]]) -> None:
        """Put small files in this order. All are written before the disk is waited for, and it is waited for together.

        Raises:
            OSError: that cannot be done; some of them may be there.
        """
        with ExitStack() as stack:
            files = []
            for path, content, metadata in texts:
                file = stack.enter_context(self.temporary(content))
                _make_directory(path.parent, durable=False)
                files.append((path, file, write_metadata(file.fd, file.size, metadata)))
            self._sync([file.fd for _, file, _ in files])
            for path, file, sidecar in files:
                self._name(path, file, sidecar)

    def create(self) -> tuple[int, Path]:
        """A new file, open and locked, under a name of its own from which `put` takes it."""
        make_directory(self._growing)
        while True:
            path = self._growing / f".{secrets.token_hex(8)}"
            fd = open_new(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            # A spool that is being entered may have removed it as a dead writer's, before it was locked.
            if try_lock(fd) and is_at(fd, path):
                return fd, path
            os.close(fd)

    def _put(self, path: Path, file: SpooledFile, metadata: Mapping[str, str], *, durable: bool) -> None:
        _make_directory(path.parent, durable=durable)
        sidecar = write_metadata(file.fd, file.size, metadata)
        if sidecar is None and durable and _link(file, path):
            # The name first, the bytes second: to a journal both are one step. And both at once: each would flush the
            # disk by itself.
            try:
                assert self._names is not None
                named = self._names.begin(path.parent)
                os.fsync(file.fd)
                named.result()
            except OSError:
                if is_at(file.fd, path):
                    path.unlink()
                raise
            return
        # Without it a power cut can leave a name with holes for bytes. One that is not durable may lose its name.
        (os.fsync if durable else os.fdatasync)(file.fd)
        self._name(path, file, sidecar)
        if durable:
            sync_directory(path.parent)

    def _name(self, path: Path, file: SpooledFile, sidecar: bytes | None) -> None:
        """Give a file whose bytes are durable its name, with the metadata that have no place in it."""
        if sidecar is None:
            Path(file.path).rename(path)
            return
        with self.temporary(sidecar) as beside, _locked(path.parent):
            os.fdatasync(beside.fd)
            Path(beside.path).rename(sidecar_of(path))
            Path(file.path).rename(path)

    @contextmanager
    def temporary(self, data: bytes) -> Iterator[SpooledFile]:
        """A file with these bytes, which a start in another process leaves alone; gone at the end unless renamed."""
        fd, path = self.create()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.utime(fd, ns=(time.time_ns(), WHOLE_MTIME_NS))
            yield SpooledFile(str(path), fd, len(data))
        finally:
            with suppress(OSError):
                if is_at(fd, path):
                    path.unlink()
            os.close(fd)

    def _sync(self, fds: Sequence[int]) -> None:
        """Let no power cut take the bytes of these files."""
        assert self._syncs is not None
        # A share for each thread: of a hundred files, each way to a thread and back would cost as much as the file.
        syncing = [self._syncs.submit(_sync_all, fds[first::_SHARES]) for first in range(min(_SHARES, len(fds)))]
        wait(syncing)  # all, also when one fails: the files are closed after that
        for one in syncing:
            one.result()


def _sync_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.fdatasync(fd)


def _make_directory(path: Path, *, durable: bool) -> None:
    """Make a directory; its name outlives a power cut when it is to be durable."""
    if path.is_dir():
        return
    _make_directory(path.parent, durable=durable)
    make_directory(path)
    if durable:
        sync_directory(path.parent)


def _link(file: SpooledFile, path: Path) -> bool:
    """Give a file a second name; False where one like it is there already, or no file can have two names.

    Bytes that are durable under this name must not give way to others that are not yet.
    """
    try:
        os.link(file.path, path)
    except OSError:  # what else is wrong with the directory or the file, the rename that comes instead says
        return False
    return True


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock the directory while the block runs: to other threads that lock it, two renames in the block are one step."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
