"""What builds have made is pushed without a build that waits, and nothing of it is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clients import PROJECT, TIME_LIMIT, Team, User
from lab import Lab
from waiting import wait_until

from harmonia_py import start
from harmonia_py.client.push_queue import PushQueue


def status(user: User) -> dict[str, object]:
    found = json.loads(user.run("hook", "status", "--json").stdout)
    assert isinstance(found, dict)
    return found


def test_what_a_hook_has_written_down_is_pushed_and_the_queue_is_empty(team: Team, daemon: Lab) -> None:
    user = team.user("builder", team.push)
    user.env["OUT_PATHS"] = f"{daemon.full(daemon.closure.top)} {daemon.full(daemon.closure.input1)}"
    user.run("hook", "add")
    assert status(user)["waiting"] == 1
    user.run("hook", "run", "team", "--drain")
    assert status(user) == {"waiting": 0, "oldest": None, "aside": {}}
    assert team.serves(daemon.closure.top)
    assert team.serves(daemon.closure.input1)


def test_what_cannot_be_pushed_is_set_aside_with_its_reason_and_keeps_nothing_waiting(team: Team, daemon: Lab) -> None:
    user = team.user("builder", team.push)
    gone = daemon.closure.input1
    user.run("hook", "add", daemon.full(gone))
    user.run("hook", "add", daemon.full(daemon.closure.top))
    daemon.delete(gone)
    done = user.run("hook", "run", "team", "--drain", check=False)
    assert done.returncode == 1
    left = status(user)
    assert left["waiting"] == 0
    assert list(left["aside"]) == [gone]  # type: ignore[call-overload]
    assert "is not valid" in str(left["aside"])
    said = user.run("hook", "status").stderr.splitlines()
    assert said[0] == "0 builds waiting; 1 path set aside"
    assert " ".join(said[1:]).strip().startswith(f"{gone}: ")
    assert team.serves(daemon.closure.top)


def test_a_server_that_is_away_costs_nothing_and_is_waited_for(team: Team, daemon: Lab) -> None:
    """The exit status says that something is left, the queue keeps it, and the next run pushes it."""
    user = team.user("builder", team.push)
    user.run("hook", "add", daemon.full(daemon.closure.top))
    team.server.stop()
    done = user.run("hook", "run", "team", "--drain", "--deadline", "2", check=False)
    assert done.returncode == 1
    assert status(user)["waiting"] == 1
    assert re.match(r"1 build waiting, the oldest for \d+ s; 0 paths set aside\n", user.run("hook", "status").stderr)
    team.server.__enter__()
    user.run("hook", "run", f"{team.server.url}/team", "--drain", HARMONIA_PY_TOKEN=team.push)
    assert status(user)["waiting"] == 0
    assert team.serves(daemon.closure.top)


def test_a_service_that_is_told_to_end_pushes_the_rest(team: Team, daemon: Lab) -> None:
    user = team.user("builder", team.push)
    process = user.start("hook", "run", "team")
    try:
        user.run("hook", "add", daemon.full(daemon.closure.input0))
        # A hook is faster than the start of a service.
        wait_until(lambda: team.serves(daemon.closure.input0), seconds=TIME_LIMIT)
        for path in (daemon.closure.input1, daemon.closure.top):
            user.run("hook", "add", daemon.full(path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIME_LIMIT) == 0
    finally:
        process.kill()
        process.communicate(timeout=TIME_LIMIT)
    assert team.serves(daemon.closure.top)
    assert team.serves(daemon.closure.input1)


def test_a_service_that_was_killed_begins_where_it_was(team: Team, daemon: Lab) -> None:
    user = team.user("builder", team.push)
    user.run("hook", "add", daemon.full(daemon.closure.top))
    process = user.start("hook", "run", "team")
    wait_until(lambda: team.serves(daemon.closure.input0), seconds=TIME_LIMIT)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIME_LIMIT)
    user.run("hook", "run", "team", "--drain")
    assert status(user)["waiting"] == 0
    assert team.serves(daemon.closure.top)


def test_a_hook_loads_nothing_that_a_build_would_wait_for(tmp_path: Path) -> None:
    """It took 0.6 s of every build: it imported the whole client, and what draws bars on terminals."""
    heavy = ("asyncio", "aiohttp", "rich", "ssl", "sqlite3", "msgspec", "argparse", "logging", "harmonia_py.errors")
    script = (
        "import sys\nfrom harmonia_py.start import main\n"
        f"assert main(['hook', 'add', '--queue', {str(tmp_path / 'queue')!r}, '/nix/store/x']) == 0\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=TIME_LIMIT, check=True
    )
    assert done.stdout == "[]\n"
    assert len(list((tmp_path / "queue" / "new").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "built", "expected"),
    [
        (["--queue", "QUEUE", "/nix/store/x", "/nix/store/y"], "", "/nix/store/x /nix/store/y"),
        (["/nix/store/x", "--queue", "QUEUE"], "", "/nix/store/x"),
        (["--queue=QUEUE", "/nix/store/x"], "", "/nix/store/x"),
        (["--queue", "QUEUE"], "/nix/store/x  /nix/store/y", "/nix/store/x /nix/store/y"),
        ([], "/nix/store/x", "/nix/store/x"),
    ],
)
def test_a_hook_writes_the_same_however_its_words_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], built: str, expected: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("OUT_PATHS", built)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    queue = tmp_path / "harmonia-py" / "queue"
    words = [word.replace("QUEUE", str(queue)) for word in arguments]
    assert start.main(["hook", "add", *words]) == 0
    (entry,) = (queue / "new").iterdir()
    assert entry.read_text() == f"{expected}\n"


def test_a_hook_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OUT_PATHS", raising=False)
    assert start.main(["hook", "add", "--queue", str(tmp_path)]) == 1
    assert "nothing to write down" in capsys.readouterr().err
    # Nix 2.8 names the derivation alone.
    monkeypatch.setenv("DRV_PATH", str(tmp_path / "none.drv"))
    assert start.main(["hook", "add", "--queue", str(tmp_path)]) == 1
    assert "nothing to write down" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert start.main(["hook", "add", "--queue", str(tmp_path / "file"), "/nix/store/x"]) == 1
    assert "the queue: " in capsys.readouterr().err
    assert start.main(["hook", "status", "--queue", str(tmp_path / "file")]) == 1
    assert "the queue: " in capsys.readouterr().err


@pytest.mark.slow
def test_ten_thousand_entries_arrive_whole_while_service_and_server_are_restarted(
    team: Team, daemon: Lab, tmp_path: Path
) -> None:
    """Every entry was on the disk when its hook returned; the last service ends with 0 when nothing is left."""
    files = [tmp_path / f"n{number}" for number in range(500)]
    for file in files:
        file.write_text(file.name)
    added = [daemon.store_dir.parse_path(path) for path in daemon.nix_store("--add", *map(str, files)).split()]
    user = team.user("builder", team.push)
    queue = PushQueue(user.home / ".local/state/harmonia-py/queue")
    for number in range(10_000):  # many builds make the same again
        queue.add([daemon.full(added[number % len(added)])])
    for restart in range(4):
        process = user.start("hook", "run", f"{team.server.url}/team", HARMONIA_PY_TOKEN=team.push)
        deadline = time.monotonic() + TIME_LIMIT
        while status(user)["waiting"] == 10_000 - 200 * restart:
            assert time.monotonic() < deadline
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=TIME_LIMIT)
        if restart % 2:
            team.server.stop()
            team.server.__enter__()
    user.run("hook", "run", f"{team.server.url}/team", "--drain", "--deadline", "80", HARMONIA_PY_TOKEN=team.push)
    assert status(user) == {"waiting": 0, "oldest": None, "aside": {}}
    assert [path for path in added if not team.serves(path)] == []
