"""What the jobs of a CI and the operator of a server run, as tests of both need it.

copy(lab, server, "main", token, tmp_path)          # `nix copy`, the token in its netrc: status and what it said
run_client(lab, ["login", url, "--oidc"], env)      # a command of a user
run_command(server, lab, "audit")                   # what a command of the operator prints
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import prefork
from lab import Lab
from server import Server

from harmonia_py.nix.store_path import StorePath

TIME_LIMIT: Final = 90.0


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
) -> "subprocess.CompletedProcess[str]":
    """A command of a user, without a server's state."""
    return prefork.run(*arguments, cwd=lab.root, env={**lab.env, **environment}, stdin=text, timeout=TIME_LIMIT)


def run_command(server: Server, lab: Lab, *arguments: str) -> list[str]:
    """What a command of the operator prints, a line each."""
    env = lab.env | {"STATE_DIRECTORY": str(server.root / "state"), "CACHE_DIRECTORY": str(server.root / "cache")}
    done = prefork.run(
        *arguments, "--config", str(server.root / "harmonia.toml"), cwd=lab.root, env=env, timeout=TIME_LIMIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
