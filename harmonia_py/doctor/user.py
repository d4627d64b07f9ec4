"""Who we are, what we may do with a file, and whose it is."""

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path


def user_name() -> str:
    """Who we are; a number for who has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def may(path: Path, mode: int) -> bool:
    """Whether we may do this, os.R_OK and the like, with what is there."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def describe(status: os.stat_result) -> str:
    """Mode, owner and group as `ls -l` shows them."""
    owner, group = str(status.st_uid), str(status.st_gid)
    with suppress(KeyError):
        owner = pwd.getpwuid(status.st_uid).pw_name
    with suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    return f"{stat.filemode(status.st_mode)} {owner}:{group}"
