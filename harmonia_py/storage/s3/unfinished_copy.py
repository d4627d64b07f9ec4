"""A copy of a file of a bucket, on its way."""

import hashlib
import os
from pathlib import Path

from harmonia_py.storage.errors import translated


class UnfinishedCopy:
    """Its file, and what is left to come. One thread at a time uses it; `Copies.keep` or `Copies.give_up` ends it.

    Args:
        fd: of its file, locked by this copy.
        path: of that file, as long as it has no other name.
        size: bytes that it will have.
        sha256: of all of them.
    """

    def __init__(self, fd: int, path: Path, size: int, sha256: bytes) -> None:
        self.fd = fd
        self.path = path
        self.size = size
        self._sha256 = sha256
        self._left = size
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            StorageError: they cannot be written.
        """
        view = memoryview(data)
        self._digest.update(view)
        self._left -= len(view)
        with translated("write a copy"):
            while view:
                view = view[os.write(self.fd, view) :]

    @property
    def has_all(self) -> bool:
        """Whether all bytes have come."""
        return self._left <= 0

    @property
    def is_right(self) -> bool:
        """Whether the bytes that have come are those of the file, by its hash."""
        return self._left == 0 and self._digest.digest() == self._sha256
