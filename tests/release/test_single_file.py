"""The one file that `make dist` makes, where there is nothing but Python."""

import fcntl
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Answer

import harmonia_py

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parent.parent.parent
TIME_LIMIT = 60.0
MAKE_LIMIT = 800
CANNOT = 77
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
# Every mount is in a namespace of its own.
IN_FOLDER = """
set -e
folder=$1 shared=$2
shift 2
mount -t tmpfs tmpfs "$folder/tmp"
mount -t proc proc "$folder/proc"
mount --bind /dev "$folder/dev"
mkdir "$folder/tmp/shared"
mount --bind "$shared" "$folder/tmp/shared"
exec chroot "$folder" env -i PATH=/usr/bin:/bin HOME=/tmp "$@"
"""


@pytest.fixture(scope="module")
def file() -> Path:
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts/make_single_file.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=MAKE_LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return PROJECT / "dist/harmonia-py"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"HARMONIA_PY_UNPACK_DIRECTORY": str(tmp_path / "unpacked")}


def run(env: dict[str, str], *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=TIME_LIMIT, cwd=env.get("HOME", "/")
    )


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A root directory with nothing but Python."""
    made = subprocess.run(
        [PROJECT / "scripts/make-python-folders", request.param],
        capture_output=True,
        text=True,
        check=False,
        timeout=MAKE_LIMIT,
    )
    if made.returncode == CANNOT:
        pytest.skip(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = Path(os.environ.get("HARMONIA_PY_CACHE") or Path(cache) / "harmonia-py")
    return base / "python" / str(request.param)


@pytest.fixture
def served(folder: Path, file: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL at which the file serves in that folder, and what it printed."""
    shutil.copy(file, tmp_path / "harmonia-py")
    output = tmp_path / "output"
    inside = ("/tmp/shared/harmonia-py", "serve", "--bind", "127.0.0.1:0", "--workers", "2")
    with output.open("wb") as stream:
        process = subprocess.Popen(
            ["unshare", "--mount", "--", "/bin/sh", "-c", IN_FOLDER, "sh", folder, tmp_path, *inside],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + TIME_LIMIT
        while (found := re.search(r"http://127\.0\.0\.1:\d+", output.read_text())) is None:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        yield found[0], output
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIME_LIMIT) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIME_LIMIT)


def get(url: str) -> Answer:
    with urllib.request.urlopen(url, timeout=TIME_LIMIT) as response:
        return Answer(response.status, response.headers, response.read())


def test_it_serves_where_there_is_nothing_but_python(served: tuple[str, Path]) -> None:
    url, output = served
    assert get(f"{url}/nix-cache-info").body.startswith(b"StoreDir: /nix/store\n")
    assert get(f"{url}/version").body.decode().split()[-1] == harmonia_py.__version__
    # A page needs the templates.
    assert b"<html" in get(f"{url}/").body
    assert "Traceback" not in output.read_text()


def test_it_says_what_the_installed_one_says(file: Path, env: dict[str, str]) -> None:
    done = run(env, sys.executable, file, "check-config")
    installed = run(env, sys.executable, "-m", "harmonia_py.cli", "check-config")
    assert (done.returncode, done.stdout, done.stderr) == (0, installed.stdout, installed.stderr)


def test_it_starts_about_as_fast_as_the_installed_one(file: Path, env: dict[str, str]) -> None:
    def seconds(*command: str | Path) -> float:
        began = time.perf_counter()
        assert run(env, *command, "check-config").returncode == 0
        return time.perf_counter() - began

    packed, installed = (sys.executable, file), (sys.executable, "-m", "harmonia_py.cli")
    seconds(*packed), seconds(*installed)
    rounds = [(seconds(*packed), seconds(*installed)) for _ in range(9)]
    assert statistics.median(one for one, _ in rounds) <= 1.5 * statistics.median(other for _, other in rounds)


def test_many_first_starts_at_once_unpack_one_whole_folder(file: Path, env: dict[str, str], tmp_path: Path) -> None:
    starts = [
        subprocess.Popen([sys.executable, file, "--version"], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {start.communicate(timeout=TIME_LIMIT)[0] for start in starts} == {
        f"harmonia-py {harmonia_py.__version__}\n"
    }
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert (unpacked / "harmonia_py/cli.py").is_file()


def test_what_an_older_file_left_goes_unless_it_runs(file: Path, env: dict[str, str], tmp_path: Path) -> None:
    for name in ("old", "running"):
        (tmp_path / "unpacked" / name).mkdir(parents=True, mode=0o700)
        (tmp_path / "unpacked" / name / ".in-use").touch()
    (tmp_path / "unpacked").chmod(0o700)
    with (tmp_path / "unpacked/running/.in-use").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert run(env, sys.executable, file, "--version").returncode == 0
    assert not (tmp_path / "unpacked/old").exists()
    assert (tmp_path / "unpacked/running").exists()


def test_it_runs_nothing_from_where_others_may_write(file: Path, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked").chmod(0o777)
    done = run(env, sys.executable, file, "--version")
    assert done.returncode == 1
    assert "others may write" in done.stderr
    assert "HARMONIA_PY_UNPACK_DIRECTORY" in done.stderr


def test_the_licences_of_what_is_in_it_are_in_it(file: Path) -> None:
    with zipfile.ZipFile(file) as outer, outer.open("files.zip") as stored, zipfile.ZipFile(stored) as inner:
        names = inner.namelist()
    packages = {name.split("/")[1] for name in names if ".dist-info/" in name}
    licensed = {name.split("/")[1] for name in names if re.search(r"\.dist-info/.*(LICEN[CS]E|COPYING|NOTICE)", name)}
    assert packages - licensed == set()
    assert any(name.startswith(f"{RUNNING}/") for name in names)
