"""The commands as an administrator runs them, on the state directory of the server that `Server(root, …)` starts."""

import json
import subprocess
from pathlib import Path
from typing import Any

import backing
import prefork
import tomli_w


class Machine:
    """A state directory and the commands on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._env = {"STATE_DIRECTORY": str(root / "server" / "state"), "PATH": "/usr/bin:/bin", "HOME": str(root)}
        self._env |= {"CONFIG_FILE": str(root / "none.toml")}
        (root / "none.toml").write_text(tomli_w.dumps(backing.chosen(root)))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return prefork.run(*arguments, cwd=self.root, env=self._env)

    def do(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusal(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.do(*arguments).splitlines()]
