"""Workers that are reloaded, killed and stopped while clients download: none of them gets a wrong byte."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from checking_client import checking
from lab import Lab
from server import Server, settings_of
from watched import TIME_LIMIT, Raw, random_file

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

CLIENTS: Final = 6


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests here: none of them changes the store."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.start_daemon()
        yield lab


@pytest.fixture(scope="module")
def paths(daemon: Lab) -> dict[StorePath, Hash]:
    sizes = [3_000_000 if number % 10 == 0 else 5000 * number for number in range(20)]
    files = [str(random_file(daemon.root / f"path-{number}", size)) for number, size in enumerate(sizes)]
    added = [daemon.store_dir.parse_path(line) for line in daemon.nix_store("--add", *files).split()]
    return {path: Hash.of(daemon.dump(path)) for path in added}


@pytest.fixture
def server(daemon: Lab, tmp_path: Path) -> Iterator[Server]:
    settings: dict[str, Any] = settings_of(daemon) | {"workers": 2}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def await_count(server: Server, pattern: str, count: int) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while len(re.findall(pattern, server.output())) < count:
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.01)


def test_a_reload_costs_nobody_an_answer(server: Server, paths: dict[StorePath, Hash]) -> None:
    with checking(server, paths, count=CLIENTS) as clients:
        for number in range(1, 6):
            clients.until(200)
            server.process.send_signal(signal.SIGHUP)
            await_count(server, "info: reloaded", 2 * number)
    clients.assert_truthful({200})
    assert "Traceback" not in server.output()


def test_a_worker_that_is_killed_costs_only_its_connections(server: Server, paths: dict[StorePath, Hash]) -> None:
    with checking(server, paths, count=CLIENTS) as clients:
        for number in range(1, 4):
            clients.until(200)
            os.kill(server.processes()[1], signal.SIGKILL)
            await_count(server, "killed by SIGKILL; starting another", number)
            clients.until(200)
    clients.assert_truthful({200, "cut"})
    # A connection each time, for each client at the most.
    assert clients.statuses["cut"] <= 3 * CLIENTS
    assert "Traceback" not in server.output()
    # What the killed ones had begun to compress is begun anew, and nothing is left of it.
    for path in paths:
        narinfo = server.get(f"/{path.hash_part}.narinfo").body.decode()
        url = next(line.removeprefix("URL: ") for line in narinfo.splitlines() if line.startswith("URL: "))
        assert server.get(f"/{url}").status == 200
    deadline = time.monotonic() + TIME_LIMIT
    while list((server.root / "cache").glob("**/growing/*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_end_finishes_what_has_begun(server: Server, paths: dict[StorePath, Hash]) -> None:
    with checking(server, paths, count=CLIENTS) as clients:
        clients.until(200)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIME_LIMIT) == 0
        assert time.monotonic() - began < 20  # the longest that it waits for transfers is 30
    # A connection may be closed between two requests, or when it has been made and not been accepted.
    clients.assert_truthful({200, "cut", "refused"})
    assert clients.statuses["cut"] <= 2 * CLIENTS
    assert clients.statuses["refused"]
    assert "Traceback" not in server.output()
    assert "error:" not in server.output()


def test_a_client_that_comes_while_transfers_finish_is_turned_away(
    server: Server, daemon: Lab, paths: dict[StorePath, Hash]
) -> None:
    """It waited in the kernel's queue for as long as the longest transfer took, and was cut then."""
    big = daemon.add(random_file(daemon.root / "big", 12_000_000))
    with Raw(server.port, receive_buffer=4096) as slow:
        slow.ask(f"/nar/{big.hash_part}.nar")
        status, headers = slow.head()
        assert status == 200
        server.process.send_signal(signal.SIGTERM)
        await_refusal(server)
        assert server.process.poll() is None
        assert Hash.of(slow.body(headers)) == Hash.of(daemon.dump(big))
    assert server.process.wait(TIME_LIMIT) == 0


def await_refusal(server: Server) -> None:
    deadline = time.monotonic() + TIME_LIMIT
    while True:
        try:
            Raw(server.port).socket.close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)
