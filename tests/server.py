"""The real server process for a test: `harmonia-py serve`, started, watched and stopped.

    with Server(tmp_path, lab.env, settings_of(lab, keys)) as server:   # settings become its configuration file
        server.url                      # http://127.0.0.1:PORT
        server.output()                 # all it printed so far
        server.get("/nix-cache-info")   # Answer(status, headers, body)
        server.processes()              # process ids of the supervisor and its workers

What the server printed is shown with a test that fails.
"""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, Final, Self

import tomli_w
from lab import Keys, Lab

import harmonia_py

START_LIMIT: Final = 30.0
STOP_LIMIT: Final = 15.0

_URL: Final = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: bytes


class Server:
    """See the module's docstring."""

    def __init__(
        self,
        root: Path,
        env: Mapping[str, str],
        settings: Mapping[str, Any] | None = None,
        *arguments: str,
        bind: str | None = "127.0.0.1:0",
    ) -> None:
        self.root = root / "server"
        self._log = self.root / "output"
        self._env = {name: value for name, value in env.items() if name not in ("CONFIG_FILE", "SIGN_KEY_PATHS")}
        # The package that the tests import, also where it is not installed.
        self._env |= {"PYTHONPATH": str(Path(harmonia_py.__file__).parent.parent)}
        self._env |= {"STATE_DIRECTORY": str(self.root / "state"), "CACHE_DIRECTORY": str(self.root / "cache")}
        self._command = [sys.executable, "-m", "harmonia_py.cli", "serve", *arguments]
        if bind is not None:  # else the settings say it
            self._command += ["--bind", bind]
        self.root.mkdir(exist_ok=True)  # so that it can be started again
        if settings is not None:
            file = self.root / "harmonia.toml"
            file.write_text(tomli_w.dumps(settings))
            self._command += ["--config", str(file)]

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            # A session of its own, so that whatever happens no worker survives; no settings.toml where it starts.
            self.process = subprocess.Popen(
                self._command,
                cwd=self.root,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self.port = int(self.wait_for(_URL).group(1))
        except BaseException:
            self.stop()
            raise
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Return the first match in what the server prints."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            # Asked before the output is read, so that nothing it printed at the end is missed.
            ended = self.process.poll() is not None
            found = pattern.search(self.output())
            if found is not None:
                return found
            assert not ended, f"the server ended with {self.process.returncode}:\n{self.output()}"
            assert time.monotonic() < deadline, f"the server never printed {pattern.pattern}:\n{self.output()}"
            time.sleep(0.01)

    def stop(self) -> int:
        """Ask the server to end, insist after a while, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            print("the server does not end on SIGTERM")
            status = -signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_LIMIT)
        print(self.output())
        return status

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_LIMIT)
        with contextlib.closing(connection):
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]


def settings_of(lab: Lab, *keys: Keys) -> dict[str, Any]:
    """The configuration that serves what the daemon of `lab` has, signed with `keys`."""
    return {
        "workers": 2,
        "virtual_nix_store": lab.store_dir,
        "real_nix_store": str(lab.real_store),
        "daemon_socket": str(lab.socket),
        "nix_log_dir": str(lab.log_dir),
        "sign_key_paths": [str(key.secret_file) for key in keys],
    }
