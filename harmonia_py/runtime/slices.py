"""Slices of files read into memory, for code that hashes or codes bytes instead of sending them with `sendfile`."""

import os
from collections.abc import Iterator

from harmonia_py.errors import StorageError, StorePathChanged


def read_file(fd: int, offset: int, size: int, buffer: bytearray) -> Iterator[memoryview]:
    """Bytes of an open file, from `offset` on, in portions that fit `buffer`, which each portion overwrites.

    Raises:
        StorePathChanged: the file has become shorter.
        StorageError: it cannot be read.
    """
    view = memoryview(buffer)
    end = offset + size
    while offset < end:
        try:
            count = os.preadv(fd, [view[: end - offset]], offset)
        except OSError as error:
            raise StorageError(f"cannot read a file: {error.strerror}") from error
        if count == 0:
            raise StorePathChanged("a file has become shorter while it was read")
        yield view[:count]
        offset += count
