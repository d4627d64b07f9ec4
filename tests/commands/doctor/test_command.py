"""`harmonia-py doctor` as people and scripts run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import prefork
import pytest
import terminal
import tomli_w
from lab import Lab
from server import Server, settings_of

from harmonia_py.cache.tokens import TokenHash
from harmonia_py.nix.signing import SecretKey

TIME_LIMIT: Final = 60.0
HASH_PART: Final = "0123456789abcdfghijklmnpqrsvwxyz"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIX_", "SIGN_KEY", "CONFIG"))}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[3]), "TERM": "xterm-256color"} | changes


def run(directory: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return prefork.run("doctor", *arguments, cwd=directory, env=environment(**changes))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "cache.example.org"],
        ["--url", "http://127.0.0.1:1", "--config", "x"],
        ["--key", "nonsense"],
        ["--path", "/nix/store/nonsense"],
    ],
)
def test_a_wrong_command_line_is_status_2(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: harmonia-py doctor" in done.stderr


def test_a_broken_configuration_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("workerz = 2\n")
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert 'failure configuration    settings.toml: workerz: unknown key; did you mean "workers"?' in done.stdout
    assert "→ mend that; `harmonia-py check-config` says whether it is right" in done.stdout
    assert done.stdout.endswith("1 failure, no warnings, no ok\n")


def test_a_password_in_the_url_is_not_shown(tmp_path: Path) -> None:
    done = run(tmp_path, "--url", "http://me:secret@127.0.0.1:1")
    assert done.returncode == 1
    assert "http://127.0.0.1:1, as clients see it" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.fixture
def served(daemon: Lab, tmp_path: Path) -> dict[str, str]:
    """A configuration in `harmonia.toml`, and the environment that goes with it."""
    key = daemon.secret_key("cache.example.org-1")
    key.secret_file.chmod(0o600)
    (tmp_path / "public").write_text(key.public)
    (tmp_path / "harmonia.toml").write_text(tomli_w.dumps(settings_of(daemon, key) | {"bind": "127.0.0.1:0"}))
    return daemon.env | {"CACHE_DIRECTORY": f"{tmp_path}/cache", "STATE_DIRECTORY": f"{tmp_path}/state"}


def test_this_machine_is_looked_at_from_inside_and_outside(served: dict[str, str], daemon: Lab, tmp_path: Path) -> None:
    settings = settings_of(daemon) | {"sign": True, "sign_key_paths": [f"{daemon.root}/cache.example.org-1.secret"]}
    with Server(tmp_path, daemon.env, settings) as server:
        (tmp_path / "harmonia.toml").write_text(tomli_w.dumps(settings | {"bind": f"127.0.0.1:{server.port}"}))
        done = run(tmp_path, "-c", "harmonia.toml", "--json", **served)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["ok"] is True
    assert report["counts"]["failure"] == 0
    found = {(one["section"], one["check"]): one for one in report["findings"]}
    assert found["store", "nix-daemon"]["verdict"] == "ok"
    outside = f"{server.url}, as clients see it"
    assert found[outside, "signature"]["what"] == "good, by cache.example.org-1"
    assert found[outside, "NAR"]["verdict"] == "ok"
    assert sum(report["counts"].values()) == len(report["findings"])
    assert all((one["remedy"] is None) == (one["verdict"] == "ok") for one in report["findings"])


def test_a_cache_is_looked_at_from_outside(daemon: Lab, tmp_path: Path) -> None:
    key = daemon.secret_key("cache.example.org-1")
    other = SecretKey.generate("cache.example.org-1").public_key
    with Server(tmp_path, daemon.env, settings_of(daemon, key)) as server:
        top = daemon.full(daemon.closure.top)
        good = run(tmp_path, "--url", server.url, "--key", key.public, "--path", top, NIX_STORE_DIR=daemon.store_dir)
        bad = run(tmp_path, "--url", server.url, "--key", str(other), "--path", top, NIX_STORE_DIR=daemon.store_dir)
    assert (good.returncode, good.stderr) == (0, "")
    assert "no failures, no warnings, " in good.stdout, good.stdout
    assert bad.returncode == 1
    assert " failure signature        the one by cache.example.org-1 is wrong\n" in bad.stdout
    assert "\x1b" not in good.stdout + bad.stdout


def test_a_cache_that_is_not_public_and_counts_requests(daemon: Lab, tmp_path: Path) -> None:
    """Neither is a fault of it: with the token, and some patience, all is well."""
    key = daemon.secret_key("cache.example.org-1")
    key.secret_file.chmod(0o600)
    token, hashed = TokenHash.generate("somebody")
    (tmp_path / "token").write_text(token)
    (tmp_path / "hashes").write_text(f"{hashed}\n")
    (tmp_path / "hashes").chmod(0o600)
    settings = settings_of(daemon, key) | {"token_file": f"{tmp_path}/hashes"}
    settings["limits"] = {"requests_per_second": 10.0, "burst": 5}
    with Server(tmp_path, daemon.env, settings) as server:
        (tmp_path / "harmonia.toml").write_text(tomli_w.dumps(settings | {"bind": f"127.0.0.1:{server.port}"}))
        env = daemon.env | {"CACHE_DIRECTORY": f"{tmp_path}/cache"}
        without = run(tmp_path, "-c", "harmonia.toml", **env)
        inside = run(tmp_path, "-c", "harmonia.toml", "--token-file", "token", **env)
        outside = run(tmp_path, "--url", server.url)
    assert without.returncode == 0
    assert "harmonia-py that is not public answers" in without.stdout
    assert "not public, so not looked at; --token-file FILE opens it" in without.stdout
    assert (inside.returncode, inside.stderr) == (0, ""), inside.stdout
    assert f" ok      token_file       {tmp_path}/hashes: 1 token opens this\n" in inside.stdout
    assert " ok      NAR " in inside.stdout
    assert outside.returncode == 1
    assert " failure nix-cache-info   answers 401\n" in outside.stdout


def on_a_terminal(directory: Path, *arguments: str, **changes: str) -> str:
    command, env = ("doctor", *arguments), environment(**changes) | {"COLUMNS": "80"}
    return terminal.on_a_terminal(command, cwd=directory, env=env, status=1)


def test_a_terminal_gets_colours_and_lines_that_fit(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("workerz = 2\n")
    seen = on_a_terminal(tmp_path)
    assert re.search(r"\x1b\[1;31m failure *\x1b\[0m", seen)
    plain = [_COLOUR.sub("", line).rstrip() for line in seen.replace("\r", "").splitlines()]
    assert max(map(len, plain)) <= 80
    # rich before 15 makes the columns in front a character wider.
    assert any(re.match(" {25,28}→ mend that", line) for line in plain)
    assert "\x1b[1;31m" not in on_a_terminal(tmp_path, NO_COLOR="1")


def test_serving_loads_none_of_it(tmp_path: Path) -> None:
    program = "import sys; from harmonia_py import cli; cli.main(['check-config']); assert 'rich' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), check=True, capture_output=True, timeout=60
    )
