"""The real server process for a test: `harmonia-py serve`, started, watched and stopped.

    with Server(tmp_path, lab.env, settings_of(lab, keys)) as server:   # settings become its configuration file
        server.url                      # http://127.0.0.1:PORT
        server.output()                 # all it printed so far
        server.get("/nix-cache-info")   # Answer(status, headers, body)
        server.figure("harmonia_hot_")  # the sum of such series on /metrics
        server.until(lambda: …)         # waits for it; fails with what the server said
        server.processes()              # process ids of the supervisor and its workers

It is started as `prefork` starts programs, or by an `interpreter` of its own where the start is what is tested. What it
printed is shown with a test that fails.
"""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, Final, Self

import backing
import prefork
import tomli_w
from lab import Keys, Lab
from waiting import wait_until

START_LIMIT: Final = 30.0
STOP_LIMIT: Final = 15.0

PROJECT: Final = Path(__file__).parent.parent
# Starts of an interpreter of its own, for `Server(…, interpreter=…)`.
INTERPRETER: Final = (sys.executable, "-m", "harmonia_py.cli")

_URL: Final = re.compile(r"http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: bytes


class Server:
    def __init__(
        self,
        root: Path,
        env: Mapping[str, str],
        settings: Mapping[str, Any] | None = None,
        *arguments: str,
        bind: str | None = "127.0.0.1:0",
        interpreter: Sequence[str] = (),
    ) -> None:
        self.root = root / "server"
        self._log = self.root / "output"
        self._env = {name: value for name, value in env.items() if name not in ("CONFIG_FILE", "SIGN_KEY_PATHS")}
        self._env |= {"STATE_DIRECTORY": str(self.root / "state"), "CACHE_DIRECTORY": str(self.root / "cache")}
        self._arguments = ["serve", *arguments]
        self.interpreter = interpreter
        if bind is not None:  # else the settings say it
            self._arguments += ["--bind", bind]
        self.root.mkdir(exist_ok=True)  # so that it can be started again
        if settings is not None:
            file = self.root / "harmonia.toml"
            file.write_text(tomli_w.dumps(_on_any_disk(_backed(settings, root))))
            self._arguments += ["--config", str(file)]

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self.process = self._start(output)
        try:
            self.port = int(self.wait_for(_URL).group(1))
        except BaseException:
            self.stop()
            raise
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def _start(self, output: IO[bytes]) -> "prefork.Process | subprocess.Popen[bytes]":
        # A session of its own, so that whatever happens no worker survives; no settings.toml where it starts.
        if not self.interpreter:
            return prefork.start(*self._arguments, cwd=self.root, env=self._env, stdout=output, stderr=output)
        return subprocess.Popen(
            [*self.interpreter, *self._arguments],
            cwd=self.root,
            env=self._env | {"PYTHONPATH": str(PROJECT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

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

    def until(self, condition: Callable[[], object]) -> None:
        """Return when the condition holds; what the server said explains why it does not."""
        deadline = time.monotonic() + START_LIMIT
        while not condition():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def figure(self, name: str) -> float:
        """The sum of the series on `/metrics` whose names begin like this."""
        text = self.get("/metrics").body.decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def stop(self) -> int:
        """Ask the server to end, insist after a while, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            print("the server does not end on SIGTERM")
            status = -signal.SIGKILL
        self.kill()
        print(self.output())
        return status

    def kill(self) -> None:
        """Kill all processes of the server at once."""
        kill_group(self.process)

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


def kill_group(process: "prefork.Process | subprocess.Popen[bytes]") -> None:
    """Kill a server with all its processes; return when the last has ended, for until then they hold its port."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    else:
        wait_until(lambda: not _has_processes(process.pid), "a process outlives kill -9", seconds=STOP_LIMIT)
    process.wait(STOP_LIMIT)


def _has_processes(group: int) -> bool:
    """Whether a process of a group has not ended; one that has may be there still, until its parent asks for it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, its_group = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            # The first thread may have ended before the others.
            if int(its_group) == group and (state != "Z" or len(list((process / "task").iterdir())) > 1):
                return True
    return False


def _backed(settings: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """`settings` with the backing of this run, where they say nothing of it themselves."""
    given = dict(settings)
    for name, wanted in backing.chosen(root).items():
        if not isinstance(wanted, dict):
            given[name] = wanted
        elif "url" not in given.get(name, {}):
            given[name] = given.get(name, {}) | wanted
    return given


def _on_any_disk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` where two gigabytes need not be free for anything to be kept: /tmp may be a part of the memory."""
    tables = [name for name in ("cache", "mirror") if name == "cache" or "directory" in settings.get(name, {})]
    return dict(settings) | {name: {"min_free": 0} | settings.get(name, {}) for name in tables}


def settings_of(lab: Lab, *keys: Keys) -> dict[str, Any]:
    """The configuration that serves what the daemon of `lab` has, signed with `keys`."""
    return {
        "workers": 2,
        "virtual_nix_store": lab.store_dir,
        "real_nix_store": str(lab.real_store),
        "daemon_socket": str(lab.socket),
        "nix_log_dir": str(lab.log_dir),
        "sign": bool(keys),
        "sign_key_paths": [str(key.secret_file) for key in keys],
    }
