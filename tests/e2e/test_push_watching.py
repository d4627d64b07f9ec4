"""`watch-exec` and `watch-store`: what comes into the store of a machine is pushed, and the exit status says so."""

import os
import signal
import sys
from pathlib import Path

import pytest
from clients import TIME_LIMIT, Team, User
from lab import Lab
from waiting import wait_until

from harmonia_py.nix.store_path import StorePath


@pytest.fixture
def user(team: Team) -> User:
    user = team.user("builder", team.push)
    user.env["NIX_REMOTE"] = "daemon"
    return user


def adding(tmp_path: Path, name: str, text: str = "") -> tuple[str, ...]:
    """A command that adds a file of this name to the store, and prints its path."""
    (tmp_path / name).write_text(text or name)
    return ("nix-store", "--add", str(tmp_path / name))


def wait_until_served(team: Team, path: StorePath) -> None:
    wait_until(lambda: team.serves(path), seconds=TIME_LIMIT)


def test_what_a_command_brings_into_the_store_is_served_when_it_has_ended(
    team: Team, daemon: Lab, user: User, tmp_path: Path
) -> None:
    done = user.run("watch-exec", "team", "--", *adding(tmp_path, "made"))
    made = daemon.store_dir.parse_path(done.stdout.strip())
    assert team.serves(made)
    assert not team.serves(daemon.closure.top), "it was there before"


def test_the_exit_status_is_that_of_the_command_and_what_it_made_is_pushed(
    team: Team, daemon: Lab, user: User, tmp_path: Path
) -> None:
    script = f"{' '.join(adding(tmp_path, 'made'))}; exit 7"
    done = user.run("watch-exec", "team", "--", "sh", "-c", script, check=False)
    assert done.returncode == 7
    assert team.serves(daemon.store_dir.parse_path(done.stdout.strip()))


def test_a_command_that_succeeds_ends_with_1_when_what_it_made_is_not_served(
    team: Team, daemon: Lab, user: User, tmp_path: Path
) -> None:
    user.env["HARMONIA_PY_TOKEN"] = team.read
    done = user.run(
        "watch-exec", "--deadline", "2", f"{team.server.url}/team", "--", *adding(tmp_path, "made"), check=False
    )
    assert done.returncode == 1
    assert "not pushed in time" in done.stderr
    assert not team.serves(daemon.store_dir.parse_path(done.stdout.strip()))


def test_a_signal_reaches_the_command(user: User) -> None:
    user.env["HARMONIA_PY_TOKEN"] = "none"
    ready = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print(1, flush=True); signal.pause()"
    process = user.start("watch-exec", f"{user.url}/team", "--", sys.executable, "-c", ready)
    try:
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIME_LIMIT) == 3
    finally:
        process.kill()
        process.communicate(timeout=TIME_LIMIT)


def test_a_signal_ends_the_pushing_once_the_command_has_ended(user: User, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM were ignored for ten minutes, while a server was asked that takes nothing."""
    user.env["HARMONIA_PY_TOKEN"] = "none"
    script = f"echo $$; exec {' '.join(adding(tmp_path, 'made'))}"
    process = user.start("watch-exec", f"{user.url}/team", "--", "sh", "-c", script)
    try:
        command = Path("/proc", process.stdout.readline().strip())
        wait_until(lambda: not command.exists(), seconds=TIME_LIMIT)
        for _ in range(2):  # half a second lies between two attempts: the end of the command has been noticed by then
            assert "nothing can be pushed now" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIME_LIMIT) == 1
        told = process.stderr.read()
        assert "the rest was not pushed in time" in told
        assert "Traceback" not in told
    finally:
        process.kill()
        process.communicate(timeout=TIME_LIMIT)


def test_a_command_that_is_not_there_is_named(user: User) -> None:
    """There was a traceback of a group of exceptions."""
    user.env["HARMONIA_PY_TOKEN"] = "none"
    done = user.run("watch-exec", f"{user.url}/team", "--", "no-such-command", check=False)
    assert done.returncode == 1
    assert "no-such-command: " in done.stderr


def test_a_command_goes_on_when_nothing_can_be_pushed_and_its_status_is_told(user: User, tmp_path: Path) -> None:
    """The queue broke under a build, which was killed for it."""
    user.env |= {"HARMONIA_PY_TOKEN": "none", "TMPDIR": str(tmp_path / "queues")}
    (tmp_path / "queues").mkdir()
    script = (
        "import os, pathlib, signal, sys\n"
        "(queue,) = pathlib.Path(sys.argv[1]).glob('harmonia-py-*')\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))\n"
        "(queue / 'new').touch()\n"
        "print(os.getpid(), flush=True)\n"
        "signal.pause()\n"
    )
    process = user.start("watch-exec", f"{user.url}/team", "--", sys.executable, "-c", script, str(tmp_path / "queues"))
    try:
        command = int(process.stdout.readline())
        assert "the command goes on" in process.stderr.readline()
        os.kill(command, signal.SIGUSR1)
        assert process.wait(TIME_LIMIT) == 3
        assert "the queue: " in process.stderr.read()
    finally:
        process.kill()
        process.communicate(timeout=TIME_LIMIT)


def test_a_watch_pushes_what_comes_and_a_later_one_goes_on_where_it_ended(
    team: Team, daemon: Lab, user: User, tmp_path: Path
) -> None:
    first = user.start("watch-store", "team")
    try:
        wait_until((user.home / ".local/state/harmonia-py/watch/seen").exists, seconds=TIME_LIMIT)
        wait_until_served(team, daemon.add(_file(tmp_path, "made")))
        first.send_signal(signal.SIGTERM)
        assert first.wait(TIME_LIMIT) == 0
    finally:
        first.kill()
        first.communicate(timeout=TIME_LIMIT)
    between = daemon.add(_file(tmp_path, "between"))
    assert not team.serves(between)
    second = user.start("watch-store", "team")
    try:
        wait_until_served(team, between)
        second.send_signal(signal.SIGTERM)
        assert second.wait(TIME_LIMIT) == 0
    finally:
        second.kill()
        second.communicate(timeout=TIME_LIMIT)


def _file(directory: Path, name: str) -> Path:
    file = directory / name
    file.write_text(name)
    return file
