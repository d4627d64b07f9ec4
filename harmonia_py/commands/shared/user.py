"""The user that this process runs as, its permissions on a file, and the owner of a file."""

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path


def user_name() -> str:
    """The name of the user that this process runs as; the number of a user without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def may(path: Path, mode: int) -> bool:
    """Whether this process may access `path` by `mode`: os.R_OK and the like."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def others_may(status: os.stat_result) -> bool:
    """Whether users beside the owner of a file have a permission on it."""
    return bool(status.st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def describe(status: os.stat_result) -> str:
    """Mode, owner and group as `ls -l` shows them."""
    owner, group = str(status.st_uid), str(status.st_gid)
    with suppress(KeyError):
        owner = pwd.getpwuid(status.st_uid).pw_name
    with suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    return f"{stat.filemode(status.st_mode)} {owner}:{group}"
