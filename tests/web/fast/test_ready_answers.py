"""Narinfos that are ready for as long as nothing changes, and no longer: on the real server, asked all the time."""

import http.client
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from reloading import reload
from server import Server, settings_of
from waiting import wait_until
from watched import random_file

from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.daemon.known_paths import CHECK_SECONDS

# A look a second, and what a machine under load adds.
BOUND_SECONDS: Final = 10.0
WORKERS: Final = 2
# New connections, so many that every worker has some.
REQUESTS: Final = 24
# Between two questions of a client while nothing changes: a hundredth of what any answer is ready for, and no load.
PAUSE_SECONDS: Final = 0.01
CLIENTS: Final = 2 * WORKERS


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests here: each has store paths of its own."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.start_daemon()
        yield lab


@pytest.fixture
def settings(daemon: Lab) -> dict[str, Any]:
    return settings_of(daemon) | {"workers": WORKERS, "access_log": False}


@pytest.fixture
def server(daemon: Lab, settings: dict[str, Any], tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


@pytest.fixture
def path(daemon: Lab, tmp_path: Path) -> StorePath:
    path = daemon.add(random_file(tmp_path / "file", 5000))
    # As a store in which nothing has happened for a while.
    os.utime(daemon.real_store, (1, 1))
    return path


class Clients:
    """Clients that ask for one narinfo all the time, so that an answer that is ready never rests."""

    def __init__(self) -> None:
        self._answers = [0] * CLIENTS
        self._rests = threading.Event()
        self._rests.set()

    def ask(self, number: int, server: Server, path: StorePath, stop: threading.Event) -> None:
        """Ask until `stop`."""
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=BOUND_SECONDS * 10)) as connection:
            while not stop.is_set():
                connection.request("GET", f"/{path.hash_part}.narinfo")
                connection.getresponse().read()
                self._answers[number] += 1
                if self._rests.is_set():
                    time.sleep(PAUSE_SECONDS)

    @contextmanager
    def without_rest(self) -> Iterator[None]:
        """Each client has a question under way, or the next one at once, before, while and after something changes."""
        self._rests.clear()
        try:
            self._until_all_ask()
            yield
            self._until_all_ask()
        finally:
            self._rests.set()

    def _until_all_ask(self) -> None:
        """Wait until each client has had an answer to a question that it has put from now on."""
        before = tuple(self._answers)
        wait_until(lambda: all(now > then + 1 for now, then in zip(self._answers, before, strict=True)))


@contextmanager
def asked_all_the_time(server: Server, path: StorePath) -> Iterator[Clients]:
    """Have `path` asked for by clients."""
    stop, clients = threading.Event(), Clients()
    threads = [threading.Thread(target=clients.ask, args=(number, server, path, stop)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def settled(answers: Callable[[], list[Any]], wanted: Callable[[Any], bool]) -> bool:
    """Whether all answers are as `wanted` before the bound is over, and stay so for longer than between two looks.

    New connections may meet the same worker many times in turn, so one round of answers does not tell.
    """
    began = wrong = time.monotonic()
    while time.monotonic() < wrong + CHECK_SECONDS * 1.2:
        if not all(map(wanted, answers())):
            wrong = time.monotonic()
            if wrong > began + BOUND_SECONDS:
                return False
        time.sleep(PAUSE_SECONDS * 20)
    return True


def statuses(server: Server, path: StorePath) -> list[int]:
    return [server.get(f"/{path.hash_part}.narinfo").status for _ in range(REQUESTS)]


def texts(server: Server, path: StorePath) -> list[str]:
    return [server.get(f"/{path.hash_part}.narinfo").body.decode() for _ in range(REQUESTS)]


def questions(server: Server) -> int:
    """How many questions the workers have put to the nix-daemon."""
    counts = re.findall(
        r"^harmonia_daemon_connection_acquire_duration_seconds_count.* (\d+)$",
        server.get("/metrics").body.decode(),
        re.MULTILINE,
    )
    assert counts
    return sum(map(int, counts))


def test_a_deleted_path_is_absent_within_the_bound_and_there_again_when_it_is_added_again(
    server: Server, daemon: Lab, path: StorePath, tmp_path: Path
) -> None:
    with asked_all_the_time(server, path) as clients:
        assert set(statuses(server, path)) == {200}
        with clients.without_rest():
            daemon.delete(path)
        assert settled(lambda: statuses(server, path), lambda status: status == 404)
        with clients.without_rest():
            assert daemon.add(tmp_path / "file") == path
            assert set(statuses(server, path)) == {200}
        with clients.without_rest():
            daemon.nix("store", "gc")
        assert settled(lambda: statuses(server, path), lambda status: status == 404)
    assert "error:" not in server.output()


def test_a_path_that_has_just_come_is_there_at_once_although_it_was_absent_a_moment_ago(
    server: Server, daemon: Lab, path: StorePath, tmp_path: Path
) -> None:
    """What the kernel has told counts before the answer: not a second late, as the directory's time alone would be."""
    others = [random_file(tmp_path / f"other-{number}", 100) for number in range(10)]
    coming = [StorePath.parse(Path(daemon.nix_store("--add", str(other)).strip()).name) for other in others]
    for one in coming:
        daemon.delete(one)

    def asked_for(paths: list[StorePath]) -> int:
        before = questions(server)
        for one in paths:
            statuses(server, one)
        return questions(server) - before

    with asked_all_the_time(server, path) as clients:
        assert settled(lambda: [status for one in coming for status in statuses(server, one)[:2]], lambda s: s == 404)
        # From when the directory has been looked at: on a busy machine a look takes long, and the next is put off.
        wait_until(lambda: asked_for(coming) <= len(coming), "absent paths were asked for one by one")
        for one, other in zip(coming, others, strict=True):
            assert set(statuses(server, one)) == {404}
            with clients.without_rest():
                assert daemon.add(other) == one
                assert set(statuses(server, one)) == {200}


def test_a_file_that_has_been_compressed_is_in_every_workers_narinfo_within_the_bound(
    server: Server, path: StorePath
) -> None:
    with asked_all_the_time(server, path):
        before = texts(server, path)
        assert not any("FileHash" in text for text in before)
        url = next(line for line in before[0].splitlines() if line.startswith("URL: ")).removeprefix("URL: ")
        assert server.get(f"/{url}").status == 200
        assert settled(lambda: texts(server, path), lambda text: "FileHash: sha256:" in text)


def test_a_file_that_another_program_has_compressed_is_in_the_narinfo_within_the_bound(
    server: Server, daemon: Lab, path: StorePath, tmp_path: Path
) -> None:
    with asked_all_the_time(server, path):
        assert not any("FileHash" in text for text in texts(server, path))
        shared = settings_of(daemon) | {"cache": {"directory": str(server.root / "cache")}}
        (tmp_path / "other").mkdir()
        with Server(tmp_path / "other", daemon.env, shared) as other:
            text = texts(other, path)[0]
            url = next(line for line in text.splitlines() if line.startswith("URL: ")).removeprefix("URL: ")
            assert other.get(f"/{url}").status == 200
            # The last byte is sent before the file is kept.
            other.until(lambda: "FileHash: sha256:" in other.get(f"/{path.hash_part}.narinfo").body.decode())
        assert settled(lambda: texts(server, path), lambda text: "FileHash: sha256:" in text)


def test_after_a_first_download_get_and_head_of_a_narinfo_agree_at_once(
    daemon: Lab, settings: dict[str, Any], path: StorePath, tmp_path: Path
) -> None:
    """For two seconds GET had no FileHash yet, and HEAD had the length of a narinfo with one."""
    with Server(tmp_path, daemon.env, settings | {"workers": 1}) as server, asked_all_the_time(server, path):
        target = f"/{path.hash_part}.narinfo"
        before = server.get(target)
        url = next(line for line in before.body.decode().splitlines() if line.startswith("URL: "))
        assert server.get(f"/{url.removeprefix('URL: ')}").status == 200
        deadline = time.monotonic() + BOUND_SECONDS
        while (head := server.request("HEAD", target)).headers["Content-Length"] == before.headers["Content-Length"]:
            assert time.monotonic() < deadline
        assert server.get(target).headers["Content-Length"] == head.headers["Content-Length"]


def test_after_a_reload_every_narinfo_is_signed_by_the_keys_of_now(
    daemon: Lab, settings: dict[str, Any], path: StorePath, tmp_path: Path
) -> None:
    keys = [daemon.secret_key(f"rotated-{number}") for number in range(4)]
    with_key = [settings | {"sign": True, "sign_key_paths": [str(key.secret_file)]} for key in keys]
    with Server(tmp_path, daemon.env, with_key[0]) as server, asked_all_the_time(server, path) as clients:
        assert all("Sig: rotated-0:" in text for text in texts(server, path))
        for number in range(1, 4):
            with clients.without_rest():
                reload(server, with_key[number])
                found = texts(server, path)
            assert all(f"Sig: rotated-{number}:" in text for text in found)
            assert not any(f"Sig: rotated-{number - 1}:" in text for text in found)
