"""Hundreds of clients that leave in the middle of a download, of every kind: the worker is left as it was before."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from server import Server, settings_of
from watched import Held, Raw, await_return, random_file

from harmonia_py.nix.store_path import StorePath

TIME_LIMIT: Final = 30.0

CLIENTS = 300
BIG_SIZE = 12 * 1024 * 1024


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests here: none of them takes anything from the store."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.start_daemon()
        yield lab


@pytest.fixture(scope="module")
def big(daemon: Lab) -> StorePath:
    return daemon.add(random_file(daemon.root / "big", BIG_SIZE))


@pytest.fixture(scope="module")
def small_files(daemon: Lab) -> StorePath:
    """More than a socket takes, gathered from files none of which is worth a sendfile."""
    directory = daemon.root / "small-files"
    directory.mkdir()
    data = b"n" * 10_000
    for number in range(800):
        (directory / str(number)).write_bytes(data)
    return daemon.add(directory)


@pytest.fixture
def server(daemon: Lab, tmp_path: Path) -> Iterator[Server]:
    settings: dict[str, Any] = settings_of(daemon) | {"workers": 1, "log_level": "info"}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def url_of(server: Server, path: StorePath) -> str:
    narinfo = server.get(f"/{path.hash_part}.narinfo").body.decode()
    return "/" + next(line.removeprefix("URL: ") for line in narinfo.splitlines() if line.startswith("URL: "))


def leave(server: Server, target: str, number: int) -> None:
    """Leave at once, after the headers, or in the middle; by a reset or by closing."""
    client = Raw(server.port, receive_buffer=4096)
    with client:
        client.ask(target)
        if number % 4:
            assert client.head()[0] == 200
        if number % 4 > 1:
            client.read(1000 * (number % 7))
        if number % 2:
            client.leave()


def leave_all(server: Server, target: str, count: int = CLIENTS) -> None:
    for first in range(0, count, 20):
        with contextlib.ExitStack() as stack:
            # Twenty at a time are there together.
            clients = [stack.enter_context(Raw(server.port, receive_buffer=4096)) for _ in range(10)]
            for client in clients:
                client.ask(target)
            for number in range(first, first + 10):
                leave(server, target, number)
            for client in clients[:5]:
                client.leave()


def assert_left_nothing(server: Server, daemon: Lab, target: str, ask: Callable[[], object]) -> None:
    worker = server.processes()[1]
    leave_all(server, target, CLIENTS // 2)  # what stays is made now: threads, their memory, connections to the daemon
    ask()
    before = await_return(worker, Held.by(worker))
    connections = len(daemon.connections())
    leave_all(server, target)
    # A connection to a database that housekeeping opens meanwhile has three files, and a thread.
    await_return(worker, before, descriptors=8, threads=16)
    assert len(daemon.connections()) <= connections + 1
    assert server.processes()[1] == worker
    assert "Traceback" not in server.output()
    assert "error:" not in server.output()
    assert "warning:" not in server.output()
    ask()


def test_of_a_large_file(server: Server, daemon: Lab, big: StorePath) -> None:
    target, nar = f"/nar/{big.hash_part}.nar", daemon.dump(big)

    def ask() -> None:
        assert server.get(target).body == nar

    assert_left_nothing(server, daemon, target, ask)


@pytest.mark.slow
def test_of_many_small_files(server: Server, daemon: Lab, small_files: StorePath) -> None:
    target, nar = f"/nar/{small_files.hash_part}.nar", daemon.dump(small_files)

    def ask() -> None:
        assert server.get(target).body == nar

    assert_left_nothing(server, daemon, target, ask)


def test_of_a_kept_file(server: Server, daemon: Lab, big: StorePath) -> None:
    target = url_of(server, big)
    kept = server.get(target).body

    def ask() -> None:
        assert server.get(target).body == kept

    assert_left_nothing(server, daemon, target, ask)


def test_of_a_range_of_a_kept_file(server: Server, daemon: Lab, big: StorePath) -> None:
    """Never answered from what is ready, so it takes the framework's way."""
    target = url_of(server, big)
    kept = server.get(target).body
    deadline = time.monotonic() + TIME_LIMIT
    while server.get(target, {"Range": "bytes=0-0"}).status != 206:
        # The last byte was sent a moment before the file was whole on the disk.
        assert time.monotonic() < deadline, "the file is not kept"
    worker = server.processes()[1]
    before = Held.by(worker)
    for number in range(CLIENTS):
        with Raw(server.port, receive_buffer=4096) as client:
            client.ask(target, "Range: bytes=1000-")
            if number % 2:
                assert client.head()[0] == 206
                client.leave()
    await_return(worker, before, descriptors=2, threads=32)
    assert server.get(target, {"Range": "bytes=1000-"}).body == kept[1000:]
    assert "Traceback" not in server.output()


def test_of_files_that_are_just_being_compressed(server: Server, daemon: Lab, tmp_path: Path) -> None:
    """Each file is made once and kept, although no client stays to see its end."""
    worker = server.processes()[1]
    paths = [daemon.add(random_file(tmp_path / f"fresh-{number}", BIG_SIZE)) for number in range(6)]
    server.get(url_of(server, paths[0]))
    before = Held.by(worker)
    for path in paths[1:]:
        leave_all(server, url_of(server, path), CLIENTS // 5)
    for path in paths:
        answer = server.get(url_of(server, path))
        assert "Content-Length" in answer.headers or answer.headers["Transfer-Encoding"] == "chunked"
    # Files that are kept stay open for a while.
    await_return(worker, before, descriptors=2 * len(paths), threads=40)
    assert "Traceback" not in server.output()
    assert "error:" not in server.output()
