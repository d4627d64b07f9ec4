"""How the file that make_single_file.py makes starts: it unpacks itself once, and runs from there ever after.

What only unpacking needs is imported when it unpacks; every other start does without.
"""

import fcntl
import os
import stat
import sys
from typing import IO

DIGEST = "@DIGEST@"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
NAME = f"{DIGEST}-{VERSION}"
# Whoever runs from a folder keeps this file in it locked; a folder where it is not locked may go.
LOCK = ".in-use"
# A folder that was not completed in this time never will be.
ABANDONED_SECONDS = 3600

_held: list[IO[str]] = []


def start() -> int:
    """Run the command line of the package."""
    archive = sys.path[0]
    sys.path[0] = find(archive)
    # Whatever $PYTHONDONTWRITEBYTECODE says of other folders, this one is for files that make starting faster.
    sys.dont_write_bytecode = False
    from harmonia_py.start import main

    return main()


def find(archive: str) -> str:
    """The folder with the files, in the first place that takes it."""
    failures = []
    for place in places():
        try:
            return unpack(archive, place)
        except OSError as error:
            failures.append(f"{place}: {error.strerror or error}")
    what = f"there is no place to unpack to: {'; '.join(failures)}"
    sys.exit(f"harmonia-py: {what}; name one in $HARMONIA_PY_UNPACK_DIRECTORY")


def places() -> list[str]:
    """The directories to unpack into, best first."""
    named = os.environ.get("HARMONIA_PY_UNPACK_DIRECTORY")
    if named:
        return [named]
    # Hidden: what keeps files in these directories takes whatever else is below them for its own.
    found = [os.path.join(one, ".program") for one in os.environ.get("CACHE_DIRECTORY", "").split(":")[:1] if one]
    if os.geteuid() == 0:
        # Not below /var/cache/harmonia-py: that belongs to the user of the service, where it has one.
        found.append("/var/cache/harmonia-py-program")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME") or "/nonexistent", ".cache")
    return [*found, os.path.join(base, "harmonia-py", ".program")]


def unpack(archive: str, place: str) -> str:
    """The folder in `place` with the files, made if it is not there.

    Raises:
        PermissionError: another user could put something else there, now or between two looks,
            or nothing may run there.
    """
    # From here on the path has no links, so what was looked at is what is used.
    place = os.path.realpath(place)
    refuse_what_others_may_change(place)
    make_directories(place)
    refuse_what_others_may_change(place)
    refuse_what_runs_nothing(place)
    folder = os.path.join(place, NAME)
    if os.path.isdir(folder):
        use(folder)
        return folder
    make(archive, place, folder)
    use(folder)
    remove_unused(place)
    return folder


def make_directories(place: str) -> None:
    """Make `place` and what is missing above it, all for their owner alone: makedirs() does that for the last."""
    if not os.path.isdir(place):
        make_directories(os.path.dirname(place))
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            # Another start has made it; the look that follows finds out what it is.
            return


def refuse_what_others_may_change(place: str) -> None:
    """Look at `place` and every directory above it, as far as they exist.

    Who owns one of them, or may write to it, can put another directory in the place of ours at any moment; we would run
    what is in it, with our rights. In a directory with the sticky bit, such as /tmp, that takes the owner of ours.

    Raises:
        PermissionError: one belongs to another user than root and us, or others may write to it.
    """
    directory = place
    while True:
        try:
            about = os.lstat(directory)
        except FileNotFoundError:
            about = None
        if about is not None:
            if about.st_uid not in (0, os.geteuid()) or not stat.S_ISDIR(about.st_mode):
                raise PermissionError(f"{directory} belongs to another user")
            is_sticky = about.st_mode & stat.S_ISVTX and directory != place
            if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky and not is_ours_alone(about, directory):
                raise PermissionError(f"others may write to {directory}")
        if directory == "/":
            return
        directory = os.path.dirname(directory)


def refuse_what_runs_nothing(place: str) -> None:
    """Look at the file system of `place`: systemd 257 lets nothing run in the cache directory of a dynamic user.

    Raises:
        PermissionError: it is mounted `noexec`.
    """
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        raise PermissionError(f"{place} is mounted noexec; a service needs ExecPaths= with its cache directory")


def is_ours_alone(about: os.stat_result, directory: str) -> bool:
    """Whether only a group may write there that is this user's own, as every user has one on many distributions."""
    if about.st_mode & stat.S_IWOTH or about.st_uid != os.geteuid():
        return False
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(about.st_gid)
    except KeyError:
        return False
    # The bits for the group are the mask of an access list, where there is one: it may name others.
    if "system.posix_acl_access" in os.listxattr(directory):
        return False
    return (user.pw_gid, user.pw_name) == (group.gr_gid, group.gr_name) and set(group.gr_mem) <= {user.pw_name}


def make(archive: str, place: str, folder: str) -> None:
    """Unpack beside `folder`, and give it that name when it is whole."""
    import shutil
    import tempfile

    partial = tempfile.mkdtemp(prefix=".partial-", dir=place)
    try:
        extract(archive, partial)
        os.rename(partial, folder)
    except OSError:
        # Somebody else may have been faster.
        if not os.path.isdir(folder):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def extract(archive: str, folder: str) -> None:
    """Write the files for every Python and for this one."""
    import shutil
    import zipfile

    with zipfile.ZipFile(archive) as outer, outer.open("files.zip") as stored, zipfile.ZipFile(stored) as inner:
        names = inner.namelist()
        known = sorted({name.partition("/")[0] for name in names} - {"all"})
        if VERSION not in known:
            sys.exit(f"harmonia-py: this file is for Python {', '.join(known)}; this is Python {VERSION}")
        for name in names:
            top, _, rest = name.partition("/")
            if top in ("all", VERSION):
                target = os.path.join(folder, rest)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with inner.open(name) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
    with open(os.path.join(folder, LOCK), "w"):
        pass


def use(folder: str) -> None:
    """Keep others from removing `folder` as long as this process lives, or one that it forks."""
    lock = open(os.path.join(folder, LOCK))
    _held.append(lock)
    fcntl.flock(lock, fcntl.LOCK_SH)


def remove_unused(place: str) -> None:
    """Remove what other versions of this file left, where none of them runs, and what was never completed."""
    import shutil
    import time

    for name in os.listdir(place):
        folder = os.path.join(place, name)
        try:
            if name.startswith(".partial-"):
                if time.time() - os.stat(folder).st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(folder)
            elif name != NAME:
                with open(os.path.join(folder, LOCK)) as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
        except OSError:
            # Somebody else removes it, or runs from it.
            continue
