"""Processes come and go and no connection is dropped but those of a worker that crashed."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from lab import Keys, Lab
from server import Server, settings_of
from waiting import wait_until

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import StorePath
from harmonia_py.server.supervisor import IMPATIENCE_SECONDS

TIME_LIMIT = 30.0
BIG_SIZE = 48 * 1024 * 1024


def runs(process: int) -> bool:
    """Whether `process` is there, and not merely waiting to be reaped."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def descriptors(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208  # a list is what is counted


def _have_ended(server: Server, count: int) -> bool:
    return server.output().count("killed by SIGKILL; starting another") == count


def configure(server: Server, settings: dict[str, Any]) -> None:
    """Replace the configuration file and ask for a reload."""
    (server.root / "harmonia.toml").write_text(tomli_w.dumps(settings))
    server.process.send_signal(signal.SIGHUP)


def reload(server: Server, settings: dict[str, Any]) -> None:
    """Reload, and return when every worker has."""
    before = server.output().count("info: reloaded")
    workers = len(server.processes()) - 1
    configure(server, settings)
    wait_until(lambda: server.output().count("info: reloaded") >= before + workers, "reloaded")


@contextlib.contextmanager
def connection(server: Server) -> Iterator[HTTPConnection]:
    with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=TIME_LIMIT)) as http:
        yield http


def ask(http: HTTPConnection, path: str) -> HTTPResponse:
    http.request("GET", path)
    return http.getresponse()


def worker_of(http: HTTPConnection, server: Server) -> int:
    """The process that serves this connection, which has been used."""
    port = http.sock.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == server.port and int(fields[2].split(":")[1], 16) == port:
            link = f"socket:[{fields[9]}]"
            for process in server.processes()[1:]:
                for fd in Path(f"/proc/{process}/fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if str(fd.readlink()) == link:
                            return process
    raise AssertionError("nobody serves the connection")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests here: none of them changes the store."""
    root = tmp_path_factory.mktemp("lab")
    with Lab(root) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


@pytest.fixture(scope="module")
def big(daemon: Lab) -> StorePath:
    """A store path that no socket buffer holds."""
    file = daemon.root / "big"
    with file.open("wb") as stream:
        stream.truncate(BIG_SIZE)
    return daemon.add(file)


@pytest.fixture(scope="module")
def keys(daemon: Lab) -> Keys:
    return daemon.secret_key("new-1")


@pytest.fixture
def settings(daemon: Lab) -> dict[str, Any]:
    return settings_of(daemon) | {"compression": "none"}


@pytest.fixture
def server(daemon: Lab, settings: dict[str, Any], tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def begin_download(http: HTTPConnection, path: StorePath) -> HTTPResponse:
    """A download of which the client has read a little."""
    if http.sock is None:
        http.connect()
    http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    response = ask(http, f"/nar/{path.hash_part}.nar")
    assert response.status == 200
    assert len(response.read(1000)) == 1000
    return response


def test_there_are_as_many_workers_as_configured_and_they_end_with_the_supervisor(server: Server) -> None:
    processes = server.processes()
    assert len(processes) == 3
    assert server.stop() == 0
    assert not any(runs(process) for process in processes)
    assert "Traceback" not in server.output()
    assert "error:" not in server.output()


def test_an_idle_connection_does_not_delay_the_end(server: Server) -> None:
    with connection(server) as http:
        ask(http, "/health").read()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert http.sock.recv(1) == b""


def test_a_worker_that_is_killed_is_logged_and_replaced_and_the_others_go_on(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        https = [stack.enter_context(connection(server)) for _ in range(16)]
        for http in https:
            ask(http, "/health").read()
        served_by = [worker_of(http, server) for http in https]
        victim = served_by[0]
        os.kill(victim, signal.SIGKILL)
        server.wait_for(re.compile(rf"error: worker {victim} ended: killed by SIGKILL; starting another"))
        wait_until(lambda: len(server.processes()) == 3, "another worker")
        assert victim not in server.processes()
        for http, process in zip(https, served_by, strict=True):
            if process == victim:
                with pytest.raises((ConnectionError, HTTPException)):
                    ask(http, "/health")
            else:
                assert ask(http, "/health").read() == b"OK\n"
    assert server.get("/health").status == 200


def test_workers_that_crash_again_and_again_are_replaced_ever_more_slowly(server: Server) -> None:
    for number in range(4):
        os.kill(server.processes()[1], signal.SIGKILL)
        wait_until(partial(_have_ended, server, number + 1), "its end is logged")
        wait_until(lambda: len(server.processes()) == 3, "another worker")
    assert server.get("/health").status == 200


def test_workers_end_when_the_supervisor_is_killed(server: Server) -> None:
    workers = server.processes()[1:]
    server.process.kill()
    server.process.wait(TIME_LIMIT)
    wait_until(lambda: not any(runs(process) for process in workers), "workers without a supervisor end")


def test_a_transfer_that_runs_at_sigterm_finishes(server: Server, daemon: Lab, big: StorePath) -> None:
    with connection(server) as http:
        response = begin_download(http, big)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(re.compile("info: stopping"))
        assert len(response.read()) == int(response.headers["Content-Length"]) - 1000
    assert server.process.wait(TIME_LIMIT) == 0
    assert "killing them" not in server.output()


def test_a_transfer_beyond_the_deadline_is_cut_and_the_exit_status_is_still_zero(
    daemon: Lab, settings: dict[str, Any], tmp_path: Path, big: StorePath
) -> None:
    with Server(tmp_path, daemon.env, settings | {"shutdown_timeout": 0.3}) as server, connection(server) as http:
        response = begin_download(http, big)
        processes = server.processes()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert not any(runs(process) for process in processes)
        with pytest.raises((ConnectionError, HTTPException)):
            # A clean end would be one that has all the bytes.
            assert len(response.read()) == BIG_SIZE
        assert "Traceback" not in server.output()


@pytest.mark.parametrize("group", [slice(1), slice(None)], ids=["the supervisor", "all"])
def test_a_server_that_was_stopped_with_ctrl_z_goes_on(
    daemon: Lab, settings: dict[str, Any], tmp_path: Path, group: slice
) -> None:
    """`fg` ended it: what CPython returned in place of "no signal" was taken for SIGTERM. After half a minute the
    workers, which had stood still as well, would have been killed as stuck."""
    with Server(tmp_path, daemon.env, settings | {"worker_timeout": 3.0}) as server:
        before = server.processes()
        for process in before[group]:
            os.kill(process, signal.SIGSTOP)
        time.sleep(3.5)  # longer than a worker may show nothing
        for process in before[group]:
            os.kill(process, signal.SIGCONT)
        looks = time.monotonic() + 2.0
        while time.monotonic() < looks:
            assert server.get("/health").status == 200
        assert server.processes() == before
        assert "stopping" not in server.output()
        assert "is stuck" not in server.output()


def test_two_signals_at_once_are_one_wish(server: Server, big: StorePath) -> None:
    """A terminal signals the whole group, a wrapper passes the signal on: the second one cut every transfer."""
    with connection(server) as http:
        response = begin_download(http, big)
        server.process.send_signal(signal.SIGINT)
        sender = rf"as process {os.getpid()} \(.+\) of user {os.getuid()} asks"
        server.wait_for(re.compile(f"stopping, {sender}; transfers have 30 s to finish; Ctrl-C again cuts them"))
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        assert len(response.read()) > BIG_SIZE - 1000
    assert server.process.wait(TIME_LIMIT) == 0
    assert "did not stop in time" not in server.output()


def test_a_second_signal_after_a_while_does_not_wait(server: Server, big: StorePath) -> None:
    with connection(server) as http:
        begin_download(http, big)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(re.compile("info: stopping"))
        began = time.monotonic()
        # Sooner it would be taken for the same wish; it is repeated, so that the clocks need not agree.
        while server.process.poll() is None:
            assert time.monotonic() < began + TIME_LIMIT
            server.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.2)
        assert server.process.wait(TIME_LIMIT) == 0
        assert time.monotonic() - began >= IMPATIENCE_SECONDS / 2


class TestReload:
    def test_the_next_request_on_a_connection_carries_the_new_signature(
        self, server: Server, daemon: Lab, settings: dict[str, Any], keys: Keys
    ) -> None:
        path = f"/{daemon.closure.top.hash_part}.narinfo"
        with connection(server) as http:
            assert b"\nSig: " not in ask(http, path).read()
            reload(server, settings | {"sign": True, "sign_key_paths": [str(keys.secret_file)], "priority": 7})
            response = ask(http, path)
            assert b"\nSig: new-1:" in response.read()
            assert b"Priority: 7\n" in ask(http, "/nix-cache-info").read()

    def test_a_transfer_goes_on(
        self, server: Server, daemon: Lab, settings: dict[str, Any], big: StorePath, keys: Keys
    ) -> None:
        expected = Hash.of(daemon.dump(big))
        with connection(server) as http:
            http.connect()
            http.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            response = ask(http, f"/nar/{big.hash_part}.nar")
            begin = response.read(1000)
            reload(server, settings | {"sign": True, "sign_key_paths": [str(keys.secret_file)]})
            assert Hash.of(begin + response.read()) == expected

    def test_a_worker_that_replaces_one_that_crashed_has_the_new_configuration(
        self, server: Server, daemon: Lab, settings: dict[str, Any], keys: Keys
    ) -> None:
        """It began with what had been read at the start: half of the answers were unsigned."""
        reload(server, settings | {"sign": True, "sign_key_paths": [str(keys.secret_file)]})
        for process in server.processes()[1:]:
            os.kill(process, signal.SIGKILL)
        wait_until(lambda: len(server.processes()) == 3, "others")
        for _ in range(8):
            assert b"\nSig: new-1:" in server.get(f"/{daemon.closure.top.hash_part}.narinfo").body

    @pytest.mark.parametrize("wrong", [{"workers": "two"}, {"sign_key_paths": ["/nowhere/key"]}, {"worker": 3}])
    def test_what_is_wrong_is_reported_once_and_changes_nothing(
        self, server: Server, settings: dict[str, Any], wrong: dict[str, Any]
    ) -> None:
        workers = server.processes()
        configure(server, settings | wrong)
        line = server.wait_for(re.compile(r"error: not reloaded: (.*)\n"))
        assert next(iter(wrong)) in line.group(1)
        assert server.get("/health").status == 200
        assert server.processes() == workers
        assert server.output().count("not reloaded") == 1
        reload(server, settings | {"priority": 3})
        assert b"Priority: 3\n" in server.get("/nix-cache-info").body

    def test_the_number_of_workers_may_change(self, server: Server, settings: dict[str, Any]) -> None:
        before = server.processes()
        reload(server, settings | {"workers": 4})
        wait_until(lambda: len(server.processes()) == 5, "more workers")
        assert set(before) < set(server.processes())
        configure(server, settings | {"workers": 1})
        wait_until(lambda: len(server.processes()) == 2, "fewer workers")
        assert "ended" not in server.output()
        assert server.get("/health").status == 200

    def test_a_transfer_of_a_worker_that_is_one_too_many_finishes(
        self, server: Server, settings: dict[str, Any], big: StorePath
    ) -> None:
        with contextlib.ExitStack() as stack:
            served: dict[int, HTTPConnection] = {}
            # Who accepts a connection is up to the kernel.
            while len(served) < 2:
                http = stack.enter_context(connection(server))
                ask(http, "/health").read()
                served.setdefault(worker_of(http, server), http)
            responses = [begin_download(http, big) for http in served.values()]
            configure(server, settings | {"workers": 1})
            server.wait_for(re.compile("info: reloaded"))
            for response in responses:
                assert len(response.read()) == int(response.headers["Content-Length"]) - 1000
        wait_until(lambda: len(server.processes()) == 2, "fewer workers")
        assert "ended" not in server.output()

    def test_a_worker_that_is_started_while_the_others_reload_has_the_new_configuration_as_well(
        self, server: Server, settings: dict[str, Any]
    ) -> None:
        first, second = server.processes()[1:]
        os.kill(first, signal.SIGSTOP)
        os.kill(second, signal.SIGSTOP)
        configure(server, settings | {"priority": 3})
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(server.processes()) == 3 and first not in server.processes(), "another is started")
        os.kill(second, signal.SIGCONT)
        wait_until(lambda: server.output().count("info: reloaded") == 1, "the other one reloads")
        for _ in range(8):
            assert b"Priority: 3\n" in server.get("/nix-cache-info").body

    def test_a_name_that_no_file_can_have_ends_nothing(self, server: Server, settings: dict[str, Any]) -> None:
        """The supervisor ended with a traceback, and with it all workers."""
        before = server.processes()
        configure(server, settings | {"token_file": "a\0b"})
        server.until(lambda: "not reloaded" in server.output())
        assert server.get("/nix-cache-info").status == 200
        assert server.processes() == before

    def test_the_level_of_the_log_may_change(self, server: Server, settings: dict[str, Any]) -> None:
        configure(server, settings | {"priority": 3, "log_level": "error"})
        wait_until(lambda: b"Priority: 3\n" in server.get("/nix-cache-info").body, "reloaded")
        server.stop()
        assert "info: stopping" not in server.output()

    def test_what_needs_a_restart_is_said(self, server: Server, settings: dict[str, Any]) -> None:
        reload(server, settings | {"stall_timeout": 9.0, "log_level": "debug"})
        assert "warning: stall_timeout: has changed; that takes effect at the next start" in server.output()

    def test_many_in_a_row_lose_no_worker(self, server: Server, settings: dict[str, Any]) -> None:
        """SIGHUP ends a process that does not handle it yet, as a worker that has just been started."""
        for count in (1, 4, 1, 4, 2):
            configure(server, settings | {"workers": count})
        wait_until(lambda: len(server.processes()) == 3, "two workers")
        assert "SIGHUP" not in server.output()
        assert server.get("/health").status == 200


@pytest.mark.slow
def test_descriptors_do_not_add_up_over_fifty_reloads(daemon: Lab, settings: dict[str, Any], tmp_path: Path) -> None:
    with Server(tmp_path, daemon.env, settings | {"workers": 1}) as server:
        _, worker = server.processes()
        path = f"/{daemon.closure.top.hash_part}.narinfo"
        nar = f"/nar/{daemon.closure.top.hash_part}.nar"

        def use() -> None:
            assert server.get(path).status == 200
            assert server.get(nar).status == 200

        use()
        before = descriptors(worker)
        for number in range(50):
            reload(server, settings | {"workers": 1, "priority": number})
            use()
        # What the last reloads replaced may still be needed by an answer.
        wait_until(lambda: descriptors(worker) <= before + 2, f"{descriptors(worker)} descriptors, {before} before")
        assert len(os.listdir(f"/proc/{worker}/task")) < 40  # noqa: PTH208  # a list is what is counted


def test_url_of_a_nar_is_what_the_narinfo_says(daemon: Lab, server: Server) -> None:
    narinfo = server.get(f"/{daemon.closure.top.hash_part}.narinfo").body.decode()
    url = next(line.removeprefix("URL: ") for line in narinfo.splitlines() if line.startswith("URL: "))
    file_name, _, query = url.removeprefix("nar/").partition("?hash=")
    assert NarUrl.parse(file_name, query).hash_part == daemon.closure.top.hash_part
    assert server.get(f"/{url}").body == daemon.dump(daemon.closure.top)


def test_a_worker_that_stands_still_alone_is_replaced_also_after_that(
    daemon: Lab, settings: dict[str, Any], tmp_path: Path
) -> None:
    with Server(tmp_path, daemon.env, settings | {"worker_timeout": 1, "workers": 1}) as server:
        supervisor, worker = server.processes()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(supervisor, number)
            time.sleep(2)
        os.kill(worker, signal.SIGSTOP)
        server.until(lambda: worker not in server.processes() and len(server.processes()) == 2)
        server.until(lambda: server.get("/nix-cache-info").status == 200)
