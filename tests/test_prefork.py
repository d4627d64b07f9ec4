"""The processes that `prefork` starts are what an interpreter would have become: their streams, environment and end."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import prefork
import pytest
from waiting import wait_until


def interpreted(*arguments: str, cwd: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "harmonia_py.cli", *arguments],
        cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("check-config", "--quiet"),
        ("check-config", "--config", "relative.toml"),
        ("key", "list", "team"),
        ("no-verb",),
    ],
)
def test_a_program_says_and_returns_the_same(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "relative.toml").write_text('worker = 2\n[caché]\ndirectory = "x"\n')
    env = {"PATH": os.environ["PATH"], "STATE_DIRECTORY": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    forked, whole = prefork.run(*arguments, cwd=tmp_path, env=env), interpreted(*arguments, cwd=tmp_path, env=env)
    assert (forked.returncode, forked.stdout, forked.stderr) == (whole.returncode, whole.stdout, whole.stderr)


def test_it_has_the_environment_that_it_is_given_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIG_FILE", str(tmp_path / "absent.toml"))
    assert prefork.run("check-config", "--quiet", cwd=tmp_path, env={}).returncode == 0
    assert "absent.toml" in prefork.run("check-config", cwd=tmp_path, env=os.environ).stderr


def test_it_leads_a_session_and_how_it_ended_is_known(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = prefork.start(
            *("serve", "--bind", "127.0.0.1:0", "--workers", "1"),
            cwd=tmp_path,
            env={"STATE_DIRECTORY": str(tmp_path), "CACHE_DIRECTORY": str(tmp_path)},
            stdout=output,
            stderr=output,
        )
    try:
        assert os.getsid(process.pid) == process.pid
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert Path(f"/proc/{process.pid}/fd/0").readlink() == Path("/dev/null")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(prefork.TIME_LIMIT) == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # it has ended: nothing gets the signal
    assert process.poll() == -signal.SIGKILL


def test_two_at_once_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as output:
        started = [
            prefork.start("top", "http://127.0.0.1:1", cwd=tmp_path, env={}, stdout=output, stderr=output)
            for _ in range(3)
        ]
    assert len({process.pid for process in started}) == 3
    assert [process.wait(prefork.TIME_LIMIT) for process in reversed(started)] == [1, 1, 1]


OWNER = """
import os, sys, time
from pathlib import Path
import prefork
with open("output", "wb") as output:
    prefork.start(
        *("serve", "--bind", "127.0.0.1:0", "--workers", "2"),
        cwd=Path.cwd(), env={"STATE_DIRECTORY": ".", "CACHE_DIRECTORY": "."}, stdout=output, stderr=output,
    )
time.sleep(600)
"""


def processes_of(mark: str) -> set[int]:
    """The processes whose environment had `mark` in it when their interpreter was started."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark.encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
    return found


def test_all_of_them_end_with_tests_that_are_killed(tmp_path: Path) -> None:
    """Servers stayed behind, of each run that was killed, with the processes that waited for their end."""
    mark = f"MARK={uuid.uuid4()}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)} | dict([mark.split("=")])
    owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=tmp_path, env=environment)
    try:
        # The owner, what forks, the server and its workers.
        wait_until(lambda: len(processes_of(mark)) == 5)
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not processes_of(mark))
