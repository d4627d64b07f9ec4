"""Hashes of blobs in a directory, read from the disk once more."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest
from harmonia_py.errors import StorageFull
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.digesting import PORTION, BlobDigests, Reading
from harmonia_py.storage.directory import BlobDirectory, WholeFile
from harmonia_py.storage.errors import translated
from harmonia_py.storage.probe import probe


class DiskDigests(BlobDigests):
    """Computes hashes of blobs in a directory.

    Args:
        directory: of a `DiskBlobs`.
        threads: number of blobs that are read at once.
    """

    def __init__(self, directory: Path, *, threads: int = 1) -> None:
        super().__init__(Threads(Pool.DIGEST, threads))
        self._place = directory
        self._directory = BlobDirectory(directory)

    def _read(self, key: BlobKey, reading: Reading) -> Digest | None:
        file = self._directory.open(key)
        if file is None:
            return None
        try:
            with translated("read a file once more"):
                return self._digest(file, reading)
        finally:
            os.close(file.fd)

    def _digest(self, file: WholeFile, reading: Reading) -> Digest:
        # Drop the file from the page cache: the disk is to be read, and pages of other files are to stay.
        _forget(file.fd)
        claimed = file.metadata.get("file_hash")
        try:
            while data := os.pread(file.fd, PORTION, reading.size):
                reading.add(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # A bad sector is a fault of this file; a disk that is gone is not.
            with suppress(StorageFull):
                probe(self._place)
            return Digest(reading.size, None, claimed)
        finally:
            _forget(file.fd)
        return Digest(reading.size, reading.hash(), claimed)


def _forget(fd: int) -> None:
    with suppress(OSError, AttributeError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
