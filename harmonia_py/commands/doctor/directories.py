"""Checks of directories, the store's and those where NARs are kept, which leave no trace."""

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import xattr
from msgspec import Struct
from rich.filesize import decimal

from harmonia_py.catalog.quota import Limits
from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.commands.shared.user import describe, may, user_name
from harmonia_py.config.settings import Config
from harmonia_py.errors import DaemonError, FormatError
from harmonia_py.nix.store_path import StorePath
from harmonia_py.storage.probe import MIN_FREE_BYTES
from harmonia_py.store.metadata import StoreMetadata

_MOUNTS: Final = Path("/proc/self/mountinfo")
# How white space stands in a mount point.
_OCTAL: Final = re.compile(rb"\\([0-3][0-7]{2})")
_MOST_NAMES: Final = 4000
_SAMPLE: Final = 12
_FEW_FILES: Final = 1000
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "afs"})
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
HOT: Final = "storage.hot_directory"
"""The setting of a directory of copies."""

_ATTRIBUTE: Final = "user.harmonia-py.doctor"


class DirectoryFacts(Struct, frozen=True, kw_only=True):
    """The facts about a directory where NARs are kept, or about the one it would be made in.

    Attributes:
        key: of the configuration: `cache.directory`.
        path: its name.
        exists: whether it is there.
        looked_at: the directory itself, or the nearest one above that is there.
        described: mode, owner and group of `looked_at`.
        is_directory: whether `looked_at` is one.
        writable: whether we may make files there.
        read_only: whether its file system is mounted so.
        file_system: its type; None where the system does not say.
        attributes: whether files take extended attributes; None when that cannot be told without a trace.
        total: bytes of the file system; 0 for one that does not know.
        free: of those, the ones that we may use.
        free_files: how many more files there may be; None for no limit.
    """

    key: str
    path: Path
    exists: bool
    looked_at: Path
    described: str
    is_directory: bool
    writable: bool
    read_only: bool
    file_system: str | None
    attributes: bool | None
    total: int
    free: int
    free_files: int | None


def facts_of(key: str, path: Path) -> DirectoryFacts:
    """The facts about the directory `path`, the value of `key`. It may block.

    Raises:
        OSError: nothing can be seen there.
    """
    path = path.absolute()
    looked_at = next(one for one in (path, *path.parents) if os.path.lexists(one))
    status, system = looked_at.stat(), os.statvfs(looked_at)
    return DirectoryFacts(
        key=key,
        path=path,
        exists=looked_at == path,
        looked_at=looked_at,
        described=describe(status),
        is_directory=looked_at.is_dir(),
        writable=may(looked_at, os.W_OK | os.X_OK),
        read_only=bool(system.f_flag & os.ST_RDONLY),
        file_system=file_system_of(looked_at, _read_mounts()),
        attributes=_takes_attributes(looked_at),
        total=system.f_blocks * system.f_frsize,
        free=system.f_bavail * system.f_frsize,
        free_files=system.f_favail if system.f_files else None,
    )


def judge(facts: DirectoryFacts, limits: Limits) -> list[Finding]:
    """Whether the directory can take NARs, and how well it can."""
    name, place = facts.key.replace(".", " "), facts.path
    unusable = _unusable(facts)
    if unusable is not None:
        what, remedy = unusable
        loss = "each download is read from the bucket" if facts.key == HOT else "each download is made anew"
        return [Finding.failure(name, f"{place}: {what}; {loss}", remedy)]
    where = "" if facts.file_system is None else f" on {facts.file_system}"
    room = f", {decimal(facts.free)} free" if facts.total else ""
    beside = ", without extended attributes (their files stand beside)" if facts.attributes is False else ""
    made = "" if facts.exists else ", made at the first start"
    findings = [Finding.ok(name, f"{place}{where}{room}{beside}{made}")]
    return [*findings, *_judge_room(name, facts, limits), *_judge_kind(name, facts)]


def file_system_of(path: Path, mounts: str) -> str | None:
    """The type of the file system that `path` is on, by the text of `/proc/self/mountinfo`; see proc(5)."""
    found, depth = None, -1
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:  # noqa: PLR2004  # the fifth is the mount point
            continue
        point = Path(os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), os.fsencode(fields[4]))))
        # The last of several on one place hides the others.
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = after.split(" ")[0], len(point.parts)
    return found


async def look_at_store(config: Config, metadata: StoreMetadata, names: Sequence[StorePath]) -> list[Finding]:
    """Whether the files in the store's directory are those that its metadata speak of."""
    sample = [name for name in names if not name.is_derivation][:_SAMPLE]
    valid = 0
    for store_path in sample:
        try:
            info = await metadata.path_info(store_path.hash_part)
        except DaemonError:
            return []  # said already
        valid += info is not None and info.store_path == store_path
    judged = judge_store(config.real_store, len(names), len(sample), valid)
    if sample and not valid:
        return judged  # it is another store's: nothing can be missing there
    try:
        paths = await metadata.all_paths()
    except DaemonError:
        return []  # said already
    there = config.real_store
    missing = await asyncio.to_thread(lambda: [path for path in paths if not os.path.lexists(there / path)])
    return [*judged, *judge_missing(missing)]


def judge_missing(missing: Sequence[StorePath]) -> list[Finding]:
    """The valid paths of which nothing is in the store's directory."""
    if not missing:
        return []
    what = f"{len(missing)} valid paths have no files, such as {missing[0]}: they are not served"
    return [Finding.failure("store", what, "`nix-store --repair-path`, or `nix-store --verify` to forget them")]


def judge_store(directory: Path, count: int, looked_up: int, valid: int) -> list[Finding]:
    """Whether the directory, with `count` names, and the metadata are of one store.

    Of the names, `looked_up` were looked up in the metadata, which know `valid` of these.
    """
    if count == 0:
        what = f"{directory}: no store path is in it"
        return [Finding.warning("store", what, "build or copy something; or mend real_nix_store, if there should be")]
    if looked_up and not valid:
        what = f"{directory}: of {looked_up} names that are in it, the store's metadata know none"
        remedy = "daemon_socket (or nix_db_path) and real_nix_store are of two different stores"
        return [Finding.failure("store", what, remedy)]
    more = "or more " if count >= _MOST_NAMES else ""
    return [Finding.ok("store", f"{directory}: {count} {more}store paths")]


def store_paths_in(directory: Path) -> list[StorePath]:
    """The names of store paths in a directory, at most a few thousand. It may block.

    Raises:
        OSError: it cannot be read.
    """
    found: list[StorePath] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(found) >= _MOST_NAMES:
                break
            with suppress(FormatError):
                # Nix's locks and the directories of its builds have a suffix.
                if not entry.name.endswith((".lock", ".chroot", ".check")):
                    found.append(StorePath.parse(entry.name))
    return sorted(found)


def explain_unreadable(directory: Path, error: OSError) -> Finding:
    """Why the store's directory cannot be read."""
    what = f"{directory}: {(error.strerror or str(error)).lower()}"
    if isinstance(error, PermissionError):
        return Finding.failure("store", what, f"let {user_name()} read it: it serves the files themselves")
    return Finding.failure("store", what, "install Nix, or say with real_nix_store where the files are")


def _unusable(facts: DirectoryFacts) -> tuple[str, str] | None:
    if not facts.is_directory:
        return f"{facts.looked_at} is no directory", f"name another one as {facts.key}"
    if facts.read_only:
        remedy = f"name another one as {facts.key}; in a unit, CacheDirectory= or ReadWritePaths= opens it"
        return "its file system is read-only", remedy
    if not facts.writable:
        who = user_name()
        remedy = f"make it and `chown {who}` it, or in a unit use CacheDirectory=harmonia-py"
        return f"{who} may not write to {facts.looked_at} ({facts.described})", remedy
    if facts.total and facts.free < MIN_FREE_BYTES:
        return "its file system is full", f"make room there, or name a place with more as {facts.key}"
    if facts.free_files == 0:
        return "its file system has no room for more files", "remove files there: its inodes are used up"
    return None


def _judge_room(name: str, facts: DirectoryFacts, limits: Limits) -> list[Finding]:
    if not facts.total:
        return []
    is_hot = facts.key == HOT
    table = "cache" if is_hot else facts.key.partition(".")[0]
    setting = "hot_max_size" if is_hot else "max_size"
    findings = []
    if facts.free < limits.min_free:
        what = f"{decimal(facts.free)} free, less than min_free, {decimal(limits.min_free)}: all that is kept goes"
        remedy = f"make room, or lower min_free in [{table}]"
        findings.append(Finding.warning(name, what, remedy))
    if limits.max_size is not None and limits.max_size > facts.total - limits.min_free:
        what = f"{setting}, {decimal(limits.max_size)}, is more than its file system has, {decimal(facts.total)}"
        remedy = f"min_free is what limits it: leave max_size in [{table}] out, or lower it"
        if is_hot:
            remedy = "min_free of [cache] is what limits it: lower hot_max_size in [storage]"
        findings.append(Finding.warning(name, what, remedy))
    if facts.free_files is not None and facts.free_files < _FEW_FILES:
        what = f"its file system has room for {facts.free_files} more files only"
        findings.append(Finding.warning(name, what, "remove files there: its inodes are nearly used up"))
    return findings


def _judge_kind(name: str, facts: DirectoryFacts) -> list[Finding]:
    if facts.file_system in _NETWORK:
        what = f"{facts.file_system} is a network file system: each download depends on it, and locks may not hold"
        return [Finding.warning(name, what, f"name a directory on a disk of this machine as {facts.key}")]
    if facts.file_system in _IN_MEMORY:
        what = f"{facts.file_system} is memory, and empty after a reboot"
        return [Finding.warning(name, what, f"name a directory on a disk as {facts.key}, unless that is what you want")]
    if facts.file_system == "overlay":
        what = "overlay: a container's own layer, which goes with it"
        return [Finding.warning(name, what, "mount a volume there")]
    return []


def _read_mounts() -> str:
    try:
        return _MOUNTS.read_text(errors="surrogateescape")
    except OSError:  # other systems have none
        return ""


def _takes_attributes(directory: Path) -> bool | None:
    """Whether files take extended attributes, tried on a file that never has a name."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return None
    try:
        fd = os.open(directory, flag | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        xattr.setxattr(fd, _ATTRIBUTE, b"1")
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
