"""Files and directories that only their owner may read. Those that root makes belong to the owner of their directory.

Where a policy or a token decides which clients may have a NAR, no other user of the machine shall read it from the
disk. And the service must be able to read the files of a `harmonia-py compress` that an administrator ran as root.
"""

import os
from pathlib import Path
from typing import Final

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


def make_directory(path: Path) -> None:
    """Make a directory below one that is there; one that is there already stays as it is."""
    try:
        path.mkdir(mode=_DIRECTORY_MODE)
    except FileExistsError:
        return
    _give_to_owner_of(path.parent, path)


def open_new(path: Path, flags: int) -> int:
    """A descriptor of the file at `path`, opened with `flags`, which make it."""
    fd = os.open(path, flags, _FILE_MODE)
    _give_to_owner_of(path.parent, fd)
    return fd


def _give_to_owner_of(directory: Path, made: Path | int) -> None:
    if os.geteuid() == 0:
        owner = directory.stat()
        if owner.st_uid:
            os.chown(made, owner.st_uid, owner.st_gid)
