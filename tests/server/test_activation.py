"""The server under a service manager: sockets that it passes, what it is told, and the watchdog."""

import grp
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harmonia_py.errors import ConfigError
from harmonia_py.server import listen, systemd

TIME_LIMIT = 30.0

# As systemd starts a service: descriptors from 3 on, and LISTEN_PID with the process's own id.
_STARTER = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
for target, fd in enumerate(fds, 3):
    os.dup2(fd, 100 + target)
for target, fd in enumerate(fds, 3):
    os.dup2(100 + target, target)
    os.close(100 + target)
for name in ("LISTEN_PID", "WATCHDOG_PID"):
    if os.environ.get(name) == "SELF":
        os.environ[name] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "harmonia_py.cli", "serve", *sys.argv[2:]])
"""


class Manager:
    """What systemd is for a service."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(TIME_LIMIT)
        self.socket.bind(str(root / "notify"))

    @contextmanager
    def service(self, *sockets: socket.socket, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        fds = [sock.fileno() for sock in sockets]
        config = self.root / "harmonia.toml"
        config.write_text('bind = "127.0.0.1:0"\nworkers = 2\nvirtual_nix_store = "/n/s"\n')
        own = {"NOTIFY_SOCKET": str(self.root / "notify"), "STATE_DIRECTORY": str(self.root)}
        command = [sys.executable, "-c", _STARTER, ",".join(map(str, fds)), "--config", str(config)]
        with (self.root / "output").open("wb") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | own | environment,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(TIME_LIMIT)
            print((self.root / "output").read_text())

    def hear(self, wanted: str) -> list[str]:
        """The lines of the datagram that has `wanted`."""
        while True:
            lines = self.socket.recv(4096).decode().splitlines()
            if wanted in lines:
                return lines

    def silence(self, seconds: float) -> bool:
        """Whether nothing is heard for so long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(TIME_LIMIT)
        return False

    def workers(self, process: subprocess.Popen[bytes]) -> list[int]:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return [int(child) for child in children.read_text().split()]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    with manager.socket:
        yield manager


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(tmp_path / "listen"))
        unix.listen()
        yield [tcp, unix]


def health(address: object, family: int = socket.AF_INET) -> bytes:
    with socket.socket(family) as sock:
        sock.settimeout(TIME_LIMIT)
        sock.connect(address)  # type: ignore[arg-type]  # of either family
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return answer


@pytest.mark.parametrize(
    "environment", [{}, {"LISTEN_PID": "SELF"}, {"LISTEN_PID": "SELF", "LISTEN_FDNAMES": "http:local"}]
)
def test_passed_sockets_of_both_families_are_served(
    manager: Manager, listening: list[socket.socket], environment: dict[str, str]
) -> None:
    with manager.service(*listening, LISTEN_FDS="2", **environment):
        (status,) = [line for line in manager.hear("READY=1") if line.startswith("STATUS=")]
        assert f":{listening[0].getsockname()[1]}" in status
        for sock in listening:
            assert health(sock.getsockname(), sock.family).startswith(b"HTTP/1.1 200 ")


def test_one_socket_on_descriptor_3_is_enough_where_nobody_says_whose_it_is(
    manager: Manager, listening: list[socket.socket]
) -> None:
    """Launchers that are not systemd cannot know the process's number before they start it."""
    assert "LISTEN_PID" not in os.environ
    with manager.service(listening[0], LISTEN_FDS="1", WATCHDOG_USEC="2000000"):
        (status,) = [line for line in manager.hear("READY=1") if line.startswith("STATUS=")]
        # What the file says of addresses does not count.
        assert status.count("http://") == 1
        assert f":{listening[0].getsockname()[1]}" in status
        assert health(listening[0].getsockname()).startswith(b"HTTP/1.1 200 ")
        manager.hear("WATCHDOG=1")


def test_a_reload_and_the_end_are_told_when_they_begin(manager: Manager, listening: list[socket.socket]) -> None:
    with manager.service(*listening, LISTEN_FDS="2") as process:
        manager.hear("READY=1")
        before = time.monotonic_ns() // 1000
        process.send_signal(signal.SIGHUP)
        (told,) = [line for line in manager.hear("RELOADING=1") if line.startswith("MONOTONIC_USEC=")]
        assert before <= int(told.partition("=")[2]) <= time.monotonic_ns() // 1000
        manager.hear("READY=1")
        # A client in the middle of its request keeps a worker from ending.
        with socket.create_connection(listening[0].getsockname(), TIME_LIMIT):
            process.terminate()
            manager.hear("STOPPING=1")
        process.wait(TIME_LIMIT)


def test_the_watchdog_is_told_and_a_stuck_worker_is_replaced(manager: Manager, listening: list[socket.socket]) -> None:
    with manager.service(*listening, LISTEN_FDS="2", WATCHDOG_USEC="4000000", WATCHDOG_PID="SELF") as process:
        manager.hear("READY=1")
        for _ in range(3):
            manager.hear("WATCHDOG=1")
        before = manager.workers(process)
        os.kill(before[0], signal.SIGSTOP)
        deadline = time.monotonic() + TIME_LIMIT
        while before[0] in (now := manager.workers(process)) or len(now) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert before[1] in now
        manager.hear("WATCHDOG=1")
        assert f"worker {before[0]} is stuck; killing it" in (manager.root / "output").read_text()
        assert health(listening[0].getsockname()).startswith(b"HTTP/1.1 200 ")


def test_a_supervisor_that_is_stuck_says_nothing(manager: Manager, listening: list[socket.socket]) -> None:
    with manager.service(*listening, LISTEN_FDS="2", WATCHDOG_USEC="1000000") as process:
        manager.hear("WATCHDOG=1")
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        while not manager.silence(0.1):
            continue  # what was sent before
        assert manager.silence(1.5)
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}])
def test_who_did_not_ask_for_a_watchdog_is_told_nothing(
    manager: Manager, listening: list[socket.socket], environment: dict[str, str]
) -> None:
    with manager.service(*listening, LISTEN_FDS="2", **environment):
        manager.hear("READY=1")
        assert manager.silence(1.5)


@pytest.mark.parametrize(
    ("usec", "seconds"), [("30000000", 30.0), ("1", 0.000001), ("", None), ("0", None), ("x", None), ("-5", None)]
)
def test_the_time_of_the_watchdog_is_read(usec: str, seconds: float | None) -> None:
    assert systemd.watchdog_seconds({"WATCHDOG_USEC": usec}) == seconds
    assert systemd.watchdog_seconds({"WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid())}) == seconds
    assert systemd.watchdog_seconds({"WATCHDOG_USEC": usec, "WATCHDOG_PID": "1"}) is None


class TestUnixSocket:
    def test_it_has_the_mode_and_the_group_it_is_to_have(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        group = grp.getgrall()[-1] if os.geteuid() == 0 else grp.getgrgid(os.getegid())
        (listener,) = listen.open_listeners([f"unix:{path}"], {}, "http", listen.Permissions(0o660, group.gr_name))
        with listener.socket:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert path.stat().st_gid == group.gr_gid

    def test_a_group_that_nobody_has_is_one_clear_line(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            listen.open_listeners([f"unix:{tmp_path}/s"], {}, "http", listen.Permissions(0o660, "no-such-group"))
        assert str(caught.value) == "unix_socket_group: there is no group 'no-such-group'"
        assert not (tmp_path / "s").exists()
