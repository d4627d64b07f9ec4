"""Errors of the operating system as this project's errors, at the edge where they enter."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from harmonia_py.errors import StorageError, StorageFull

# Errors of a disk that takes no more bytes and can still be read; a file system becomes read-only when its disk fails.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise `StorageError`, or `StorageFull`, in the place of an `OSError`."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in _FULL else StorageError
        raise kind(f"cannot {action}: {error.strerror}") from error
