"""Whether a directory takes new files: one of the checks behind the server's readiness."""

import os
import tempfile
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Final

from harmonia_py.errors import StorageError, StorageFull, describe_os_error

# With less than this, hardly a NAR can be kept.
MIN_FREE_BYTES: Final = 16 * 1024 * 1024
_PROBE: Final = b"\0" * 4096


def probe(directory: Path) -> None:
    """Write a little into a file without a name. It may block.

    Raises:
        StorageError: the directory is not there, or cannot be written; `StorageFull` when there is no room.
    """
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(_PROBE)
            status = os.fstatvfs(file.fileno())
    except OSError as error:
        kind = StorageFull if error.errno in (ENOSPC, EDQUOT) else StorageError
        raise kind(f"the cache directory cannot be written: {describe_os_error(error)}") from error
    if status.f_bavail * status.f_frsize < MIN_FREE_BYTES:
        raise StorageFull("the file system of the cache directory is full")
