"""What the jobs of a CI and the operator of a server run, as tests of both need it.

copy(lab, server, "main", token, tmp_path)          # `nix copy`, the token in its netrc: status and what it said
run_client(lab, ["login", url, "--oidc"], env)      # a command of a user
run_command(server, lab, "audit")                   # what a command of the operator prints
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import Lab
from server import INTERPRETER, PROJECT, Server

from harmonia_py.nix.store_path import StorePath


def copy(
    lab: Lab, server: Server, cache: str, token: str, tmp_path: Path, *, path: StorePath | None = None
) -> tuple[int, str]:
    """Push a closure with stock Nix, the token in its netrc."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1\nlogin ci\npassword {token}\n")
    url = f"{server.url}/{cache}/push/{time.monotonic_ns()}"
    command = ["nix", "copy", "--to", url, "--option", "netrc-file", str(netrc), lab.full(path or lab.closure.top)]
    done = lab.run(*command, check=False)
    return done.returncode, done.stderr.decode()


def run_client(
    lab: Lab, arguments: Sequence[str], environment: Mapping[str, str], text: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """A command of a user, without a server's state."""
    env = lab.env | {"PYTHONPATH": str(PROJECT), **environment}
    command = [*INTERPRETER, *arguments]
    return subprocess.run(command, env=env, input=text.encode(), capture_output=True, timeout=90, check=False)


def run_command(server: Server, lab: Lab, *arguments: str) -> list[str]:
    """What a command of the operator prints, a line each."""
    env = lab.env | {"STATE_DIRECTORY": str(server.root / "state"), "CACHE_DIRECTORY": str(server.root / "cache")}
    command = [*INTERPRETER, *arguments, "--config", str(server.root / "harmonia.toml")]
    done = subprocess.run(command, env=env | {"PYTHONPATH": str(PROJECT)}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()
