"""Paths that come and go while clients ask for them: what has come is there at once, what has gone soon is not."""

import http.client
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, Self

import pytest
from lab import Lab
from server import Server, settings_of
from waiting import wait_until

from harmonia_py.nix.store_path import StorePath

# Several times the second after which the store directory is looked at again.
FORGOTTEN_SECONDS: Final = 20.0
# Two workers share so many connections that are open at once; those that follow each other may all go to one of them.
ASKED: Final = 16
# A worker that is busy at a look leaves all of them to the other one.
LOOKS: Final = range(8)
KEPT, DROPPED = range(20), range(20, 60)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Lab]:
    with Lab(_made(tmp_path / "lab")) as lab:
        lab.nix_store("--init")
        lab.start_daemon()
        yield lab


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Lab]:
    """A store whose first paths are in the lower layer of an overlay, and all that comes in the upper."""
    with Lab(_made(tmp_path / "lab")) as lab:
        lab.add(_file(tmp_path, "in the lower layer"))
        lower, upper, work = (lab.root / name for name in ("lower", "upper", "work"))
        lab.real_store.rename(lower)
        for directory in (lab.real_store, upper, work):
            directory.mkdir()
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(lab.real_store)]
        if subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
            pytest.skip("no overlay can be mounted here")
        try:
            lab.start_daemon()
            yield lab
            lab.stop_daemon()
        finally:
            subprocess.run(["umount", str(lab.real_store)], timeout=30, check=True)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _file(directory: Path, text: str) -> Path:
    file = directory / text.replace(" ", "-")
    file.write_text(text)
    return file


@pytest.fixture(params=["plain", "overlay"])
def store(request: pytest.FixtureRequest) -> Lab:
    found: Lab = request.getfixturevalue(request.param)
    return found


def statuses(server: Server, path: StorePath) -> set[int]:
    """What the workers answer."""
    with ExitStack() as stack:
        connections = [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)))
            for _ in range(ASKED)
        ]
        for connection in connections:
            connection.connect()
        return {_status(connection, path) for connection in connections}


def _status(connection: http.client.HTTPConnection, path: StorePath) -> int:
    connection.request("GET", f"/{path.hash_part}.narinfo")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_what_comes_is_there_at_once_and_what_goes_is_soon_absent(store: Lab, tmp_path: Path) -> None:
    file = _file(tmp_path, "comes and goes")
    path = store.add(file)
    store.delete(path)
    with Server(tmp_path, store.env, settings_of(store) | {"workers": 2}) as server:
        for _ in range(2):
            # Each worker knows the names, and answers without a question.
            assert statuses(server, path) == {404}
            assert store.add(file) == path
            assert statuses(server, path) == {200}
            store.delete(path)
            wait_until(lambda: all(statuses(server, path) == {404} for _ in LOOKS), seconds=FORGOTTEN_SECONDS)
        assert "error:" not in server.output()


class Asking:
    """Clients that ask for all of `paths` again and again, and note what they hear, and when."""

    def __init__(self, server: Server, paths: Sequence[StorePath]) -> None:
        self.heard: defaultdict[StorePath, list[tuple[float, int]]] = defaultdict(list)
        self._port = server.port
        self._paths = paths
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)) as connection:
            while not self._ended.is_set():
                for path in self._paths:
                    asked_at = time.monotonic()
                    self.heard[path].append((asked_at, _status(connection, path)))
                self._ended.wait(0.01)  # the collector wants a processor as well


def test_a_collection_hides_nothing_that_stays_and_leaves_nothing_that_went(store: Lab, tmp_path: Path) -> None:
    files = [str(_file(tmp_path, f"file {number}")) for number in range(len(KEPT) + len(DROPPED))]
    added = store.run("nix-store", "--add", *files).stdout.decode().splitlines()
    paths = [store.store_dir.parse_path(line) for line in added]
    kept, dropped = [paths[number] for number in KEPT], [paths[number] for number in DROPPED]
    roots = tmp_path / "roots"
    store.nix_store("--realise", *map(store.full, kept), "--add-root", str(roots), "--indirect")
    with Server(tmp_path, store.env, settings_of(store) | {"workers": 2}) as server:
        with Asking(server, paths) as asking:
            wait_until(lambda: all(len(asking.heard[path]) > 4 for path in paths))
            store.nix_store("--gc")
            collected_at = time.monotonic()
            late = store.add(_file(tmp_path, "after the collection"))
            assert statuses(server, late) == {200}
            wait_until(lambda: all(asking.heard[path][-1][0] > collected_at + 2 for path in paths))
        assert {status for path in kept for _, status in asking.heard[path]} == {200}
        heard = [pair for path in dropped for pair in asking.heard[path]]
        assert {status for _, status in heard} == {200, 404}
        assert {status for asked_at, status in heard if asked_at > collected_at + 1.5} == {404}
        assert "error:" not in server.output()
