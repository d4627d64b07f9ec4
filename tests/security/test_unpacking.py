"""The one file runs with the rights of whoever starts it, from where it has unpacked itself: often those of root."""

import importlib.util
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

START: Final = Path(__file__).parent.parent.parent / "scripts/single_file/start.py"
# The user of the service: any that is not root.
OTHER: Final = 65534

needs_root: Final = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")


@pytest.fixture
def start() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("single_file_start", START)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    for lock in module._held:
        lock.close()


@pytest.fixture
def archive(start: ModuleType, tmp_path: Path) -> str:
    """What make_single_file.py makes, of one file."""
    inner = tmp_path / "files.zip"
    with zipfile.ZipFile(inner, "w") as files:
        files.writestr("all/program.py", "good")
        files.writestr(f"{start.VERSION}/native.so", "good")
    file = tmp_path / "archive"
    with zipfile.ZipFile(file, "w") as outer:
        outer.write(inner, "files.zip")
    return str(file)


@pytest.mark.parametrize("variable", ["CACHE_DIRECTORY", "XDG_CACHE_HOME"])
def test_what_keeps_files_in_the_cache_directory_does_not_see_it(
    start: ModuleType, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`harmonia-py verify` took the files of the program for rotten ones, and the service did not start again."""
    for name in ("HARMONIA_PY_UNPACK_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    (place,) = [Path(one) for one in start.places() if one.startswith(str(tmp_path))]
    assert place.name.startswith(".")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory of ours below directories of ours, as /var/cache is."""
    directory = tmp_path / "var"
    directory.mkdir(mode=0o755)
    return directory


def attackers(start: ModuleType, place: Path) -> Path:
    """A complete folder that the attacker has filled, though it belongs to us: it may have been moved there."""
    folder = place / str(start.NAME)
    folder.mkdir(parents=True)
    place.chmod(0o700)
    (folder / "program.py").write_text("evil")
    (folder / ".in-use").touch()
    return folder


def test_it_unpacks_where_only_we_can_write(start: ModuleType, archive: str, top: Path) -> None:
    folder = Path(start.unpack(archive, str(top / "cache/program")))
    assert (folder / "program.py").read_text() == "good"
    assert stat.S_IMODE((top / "cache").stat().st_mode) == 0o700
    assert start.unpack(archive, str(top / "cache/program")) == str(folder)


@needs_root
def test_root_runs_nothing_below_what_the_services_user_owns(start: ModuleType, archive: str, top: Path) -> None:
    """/var/cache/harmonia-py belongs to the user of the service, who can rename what root has made in it.

    Only the last directory was looked at, so 71 of 200 starts by root ran what that user had put in its place.
    """
    parent = top / "harmonia-py"
    parent.mkdir()
    attackers(start, parent / "program")
    os.chown(parent, OTHER, OTHER)
    with pytest.raises(PermissionError, match="harmonia-py belongs to another user"):
        start.unpack(archive, str(parent / "program"))
    with pytest.raises(PermissionError):
        start.unpack(archive, str(parent / "a/b/c"))
    assert sorted(entry.name for entry in parent.iterdir()) == ["program"], "nothing was made below it"


@needs_root
def test_a_link_of_another_user_leads_nowhere(start: ModuleType, archive: str, top: Path) -> None:
    """What it leads to is looked at, and used; the link itself can change as it likes."""
    theirs = top / "theirs"
    attackers(start, theirs / "program")
    os.chown(theirs, OTHER, OTHER)
    (top / "link").symlink_to(theirs)
    with pytest.raises(PermissionError, match="theirs belongs to another user"):
        start.unpack(archive, str(top / "link/program"))


@pytest.fixture
def no_private_groups(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every group had other members."""
    monkeypatch.setattr(start, "is_ours_alone", lambda *_: False)


@pytest.mark.parametrize("mode", [0o777, 0o775])
@pytest.mark.parametrize("which", ["parent", "parent/program"])
@pytest.mark.usefixtures("no_private_groups")
def test_nothing_is_run_from_below_a_directory_that_others_may_write_to(
    start: ModuleType, archive: str, top: Path, which: str, mode: int
) -> None:
    attackers(start, top / "parent/program")
    (top / which).chmod(mode)
    with pytest.raises(PermissionError, match="others may write"):
        start.unpack(archive, str(top / "parent/program"))


def test_a_sticky_directory_above_is_no_danger(start: ModuleType, archive: str, top: Path) -> None:
    (top / "tmp").mkdir()
    (top / "tmp").chmod(0o1777)
    assert start.unpack(archive, str(top / "tmp/ours"))
    with pytest.raises(PermissionError):
        start.unpack(archive, str(top / "tmp"))


@needs_root
def test_what_is_ours_in_a_sticky_directory_must_be_ours(start: ModuleType, archive: str, top: Path) -> None:
    """Another user may have made it there first."""
    (top / "tmp").mkdir()
    (top / "tmp").chmod(0o1777)
    attackers(start, top / "tmp/ours")
    os.chown(top / "tmp/ours", OTHER, OTHER)
    with pytest.raises(PermissionError):
        start.unpack(archive, str(top / "tmp/ours"))


def test_a_group_of_ones_own_is_not_others(start: ModuleType, archive: str, top: Path) -> None:
    """Distributions on which every user has a group make directories with the mode 0775."""
    (top / "cache").mkdir()
    (top / "cache").chmod(0o775)
    assert start.unpack(archive, str(top / "cache/program"))
    about = (top / "cache").stat()
    assert not start.is_ours_alone(os.stat_result((*about[:5], 1, *about[6:])), str(top / "cache"))


def test_root_has_a_place_that_no_service_owns(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.delenv("HARMONIA_PY_UNPACK_DIRECTORY", raising=False)
    assert start.places()[0] == "/var/cache/harmonia-py-program"


# In a namespace of an ordinary user all directories of root belong to another user, those above ours as well; so the
# file system in which nothing may run becomes the root, and the machine's is found below it.
IN_NOEXEC_ROOT: Final = """
mount -t tmpfs -o noexec,mode=700 tmpfs "$1"
mkdir "$1/host"
mount --rbind / "$1/host"
for one in /*; do ln -s "host$one" "$1"; done
exec chroot "$@"
"""


def test_nothing_is_unpacked_to_where_nothing_may_run(top: Path) -> None:
    """As a service of Debian 13 the one file ended with a traceback: `failed to map segment from shared object`."""
    unpack = "import runpy, sys; runpy.run_path(sys.argv[1])['unpack']('no archive', sys.argv[2])"
    done = subprocess.run(
        [
            *("unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--"),
            *("/bin/sh", "-ec", IN_NOEXEC_ROOT, "sh", top),
            *(sys.executable, "-c", unpack, START, "/program"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("PermissionError: /program is mounted noexec; a service needs")
