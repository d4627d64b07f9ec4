"""The push client as its users run it, against the real server.

with Team(tmp_path, daemon) as team:             # a running server with the private cache `team`, and tokens for it
    laptop = team.user("laptop", team.push)      # a home directory of its own, logged in with that token
    laptop.run("push", "team", path)             # CompletedProcess of `harmonia-py push …`; stdout and stderr are text
    laptop.push(path, …, "--json")               # Pushed(status, paths, summary, stderr), from the lines of --json
    team.serves(path)                            # whether a client substitutes it, asked as Nix asks
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import backing
import prefork
from administering import Machine
from lab import Lab
from server import Server, settings_of

from harmonia_py.nix.store_path import StorePath

TIME_LIMIT: Final = 90.0
PROJECT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Pushed:
    """What `push --json` printed."""

    status: int
    paths: dict[str, dict[str, Any]]
    summary: dict[str, Any]
    stderr: str

    def states(self) -> dict[str, str]:
        return {path: fields["state"] for path, fields in self.paths.items()}


class User:
    """A user of a machine that has the store of a lab."""

    def __init__(self, home: Path, lab: Lab, url: str, *, env: Mapping[str, str] | None = None) -> None:
        home.mkdir()
        self.home = home
        self.lab = lab
        self.url = url
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(PROJECT),
            "NIX_STORE_DIR": lab.store_dir,
            "NIX_DAEMON_SOCKET_PATH": str(lab.socket),
            "NIX_CONF_DIR": lab.env["NIX_CONF_DIR"],
            **(env or {}),
        }

    def start(self, *arguments: str, **env: str) -> prefork.Piped:
        """The client, begun, with more variables in its environment."""
        return prefork.piped(*arguments, cwd=self.home, env=self.env | env)

    def run(self, *arguments: str, stdin: str = "", check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        done = prefork.run(*arguments, cwd=self.home, env=self.env | env, stdin=stdin, timeout=TIME_LIMIT)
        assert "Traceback" not in done.stderr, done.stderr
        assert not check or done.returncode == 0, done.stderr
        return done

    def push(self, *paths: StorePath, options: tuple[str, ...] = (), cache: str = "team") -> Pushed:
        done = self.run("push", cache, *map(self.lab.full, paths), "--json", *options, check=False)
        return parse(done.returncode, done.stdout, done.stderr)


def parse(status: int, stdout: str, stderr: str) -> Pushed:
    lines = [json.loads(line) for line in stdout.splitlines()]
    summary = lines.pop()["summary"] if lines else {}
    return Pushed(status, {line["path"]: line for line in lines}, summary, stderr)


class Team:
    """A server with a cache and tokens for it.

    Attributes:
        push, read: tokens.
    """

    def __init__(self, root: Path, lab: Lab, settings: Mapping[str, Any] | None = None) -> None:
        self.root, self.lab = root, lab
        self.machine = Machine(root)
        own = settings_of(lab) | {"caches": {"team": {"priority": 20}}, **(settings or {})}
        self.server = Server(root, lab.env, own)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.server)
        self.push = self.token("ci", "read,push")
        self.read = self.token("laptop", "read")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def token(self, name: str, allow: str, *options: str) -> str:
        return self.machine.do("token", "create", name, "--cache", "team", "--allow", allow, *options).strip()

    def user(self, name: str, token: str | None, *, env: Mapping[str, str] | None = None) -> User:
        user = User(self.root / name, self.lab, self.server.url, env=env)
        if token is not None:
            user.run("login", self.server.url, token)
        return user

    def directory(self, name: str) -> Path:
        """Where the server keeps what is pushed."""
        return backing.directory(self.root, "server/state/pushed") / name

    def serves(self, path: StorePath) -> bool:
        headers = {"Authorization": f"Bearer {self.read}"}
        answer = self.server.get(f"/team/{path.hash_part}.narinfo", headers)
        assert answer.status in (200, 404)
        if answer.status == 404:
            return False
        url = next(line for line in answer.body.decode().splitlines() if line.startswith("URL: ")).removeprefix("URL: ")
        return self.server.get(f"/team/{url}", headers).status == 200
