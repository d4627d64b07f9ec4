"""The units as systemd reads them, without booting anything."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from machine import PROJECT

UNITS = PROJECT / "systemd"
UNITS_OF_SYSTEMD = "/usr/lib/systemd/system"
TIME_LIMIT = 60

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")


def install(tmp_path: Path, *drop_ins: str) -> Path:
    """The units in a directory of their own, with a program that exists."""
    for name in ("harmonia-py.service", "harmonia-py.socket"):
        text = (UNITS / name).read_text().replace("/usr/bin/harmonia-py", "/bin/true")
        (tmp_path / name).write_text(text)
    folder = tmp_path / "harmonia-py.service.d"
    folder.mkdir()
    for name in drop_ins:
        shutil.copy(UNITS / name, folder)
    return tmp_path / "harmonia-py.service"


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What systemd says of units, of those of `UNITS_OF_SYSTEMD` and of none that this machine has of this project.

    `make test` was red on a machine that mirrors: its drop-ins counted for these units as well.
    """
    own = [str(one.parent) for one in arguments if isinstance(one, Path)]
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        env=os.environ | {"SYSTEMD_UNIT_PATH": ":".join([*own, UNITS_OF_SYSTEMD])},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
    )


def version() -> int:
    found = re.match(r"systemd (\d+)", analyze("--version").stdout)
    assert found is not None
    return int(found[1])


def exposure(unit: Path) -> float:
    report = analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", report.stdout)
    assert found is not None, report.stdout + report.stderr
    return float(found[1])


def test_the_service_that_pushes_is_understood_and_may_do_little_else(tmp_path: Path) -> None:
    unit = tmp_path / "harmonia-py-push.service"
    unit.write_text((UNITS / unit.name).read_text().replace("/usr/bin/harmonia-py", "/bin/true"))
    told = analyze("verify", "--man=no", unit).stderr.splitlines()
    assert [line for line in told if "harmonia-py" in line] == []
    assert exposure(unit) <= 3.0


@pytest.mark.parametrize("drop_ins", [(), ("mirror.conf",), ("mirror.conf", "signing-key.conf")])
def test_systemd_understands_every_line(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    older = ("older-systemd.conf",) if version() < 253 else ()
    unit = install(tmp_path, *drop_ins, *older)
    told = analyze("verify", "--man=no", unit).stderr.splitlines()
    # Where the drop-in for older ones is needed, the line that it replaces is one that they do not know.
    ours = [line for line in told if "harmonia-py" in line and not (older and "notify-reload" in line)]
    assert ours == []


def test_with_its_socket_alone_it_is_exposed_to_almost_nothing(tmp_path: Path) -> None:
    assert exposure(install(tmp_path)) <= 1.5


def test_a_mirror_is_exposed_to_little_more_than_the_network(tmp_path: Path) -> None:
    mirror = exposure(install(tmp_path, "mirror.conf"))
    assert mirror <= 2.2
    (tmp_path / "harmonia-py.service.d" / "mirror.conf").unlink()
    assert mirror > exposure(tmp_path / "harmonia-py.service")
