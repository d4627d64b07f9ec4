"""Whether the file of a blob still has the bytes that were put: what a look can tell, and what reading them tells.

A blob is never changed. Its file has the modification time `WHOLE_MTIME_NS`, which any write to it replaces. So one
`fstat` shows that another program wrote to the file, made it shorter, or removed it; it does not show bytes that rot.
A file that was touched is read once: when it has the hash that it was put with, it gets its mark back.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from harmonia_py.nix.hashes import Hash
from harmonia_py.storage.growing import WHOLE_MTIME_NS

_log = logging.getLogger(__name__)

# File systems that count in twos of seconds round the mark.
_MARKED_UNTIL_NS: Final = 2 * WHOLE_MTIME_NS
_PORTION: Final = 1024 * 1024


def is_unchanged(fd: int, size: int) -> bool:
    """Whether an open file is named still, has its size, and was not written to since it was marked."""
    status = os.fstat(fd)
    return status.st_nlink > 0 and status.st_size == size and status.st_mtime_ns <= _MARKED_UNTIL_NS


def is_marked(status: os.stat_result) -> bool:
    """Whether no program has written to the file since it was put."""
    return status.st_mtime_ns <= _MARKED_UNTIL_NS


def has_cached_beginning(fd: int) -> bool:
    """Whether the page cache has the first byte of an open file; False also where the file system does not tell."""
    try:
        return os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def is_right(fd: int, name: str, status: os.stat_result, metadata: Mapping[str, str]) -> bool:
    """Whether a file that is not marked has the bytes that were put, as far as its metadata tells; then it is marked.

    Raises:
        OSError: it cannot be read.
    """
    expected = metadata.get("file_hash", "")
    if expected.startswith("sha256:") and str(Hash("sha256", _sha256(fd))) != expected:
        _log.error("%s was changed on the disk by another program, and is not served any more", name)
        return False
    with suppress(OSError):  # what cannot be marked, or was written to meanwhile, is read again the next time
        if os.fstat(fd).st_mtime_ns == status.st_mtime_ns:
            os.utime(fd, ns=(status.st_atime_ns, WHOLE_MTIME_NS))
    return True


def _sha256(fd: int) -> bytes:
    digest, offset = hashlib.sha256(), 0
    while data := os.pread(fd, _PORTION, offset):
        digest.update(data)
        offset += len(data)
    return digest.digest()
