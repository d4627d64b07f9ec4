"""Names that outlive a power cut: a file is there for good when its directory has reached the disk as well."""

import os
from pathlib import Path
from typing import Final

_DIRECTORY_MODE: Final = 0o700


def sync_directory(directory: Path) -> None:
    """Return when the names in `directory` are on the disk.

    Raises:
        OSError: they cannot be written.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(directory: Path) -> None:
    """Make a directory of mode 0700 and those above it that are missing; their names are on the disk when it returns.

    Raises:
        OSError: one cannot be made.
    """
    if directory.is_dir():
        return
    make_directories(directory.parent)
    directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    sync_directory(directory.parent)
