"""A nix-daemon that is killed and comes back while clients download: the truth, or 503, and soon the truth again."""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from server import Server, settings_of
from watched import TIME_LIMIT, Cut, Held, Raw, await_return, decompressed, random_file

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

CLIENTS: Final = 8
PATHS: Final = 60
RESTARTS: Final = 4
RECOVERY_SECONDS: Final = 2.0


@pytest.fixture
def paths(daemon: Lab) -> dict[StorePath, Hash]:
    """Large and small ones."""
    root = daemon.root / "fresh"
    root.mkdir()
    sizes = [3_000_000 if number % 20 == 0 else 1000 * number for number in range(PATHS)]
    files = [str(random_file(root / f"path-{number}", size)) for number, size in enumerate(sizes)]
    added = [daemon.store_dir.parse_path(line) for line in daemon.nix_store("--add", *files).split()]
    return {path: Hash.of(daemon.dump(path)) for path in added}


@pytest.fixture
def server(daemon: Lab, tmp_path: Path) -> Iterator[Server]:
    settings: dict[str, Any] = settings_of(daemon) | {"workers": 2}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


class Client(threading.Thread):
    """Asks for narinfos and NARs, over one connection for as long as it lasts, and holds every answer to the truth."""

    def __init__(self, server: Server, paths: dict[StorePath, Hash], stop: threading.Event) -> None:
        super().__init__()
        self.statuses: Counter[int | str] = Counter()
        self.wrong: list[str] = []
        self._server = server
        self._paths = list(paths.items())
        self._stop_asking = stop
        self._raw: Raw | None = None

    def run(self) -> None:
        try:
            while not self._stop_asking.is_set():
                path, nar_hash = random.choice(self._paths)
                self._download(path, nar_hash)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test shall see it
            self.wrong.append(repr(error))
        finally:
            if self._raw is not None:
                self._raw.socket.close()

    def _download(self, path: StorePath, nar_hash: Hash) -> None:
        narinfo = self._get(f"/{path.hash_part}.narinfo")
        if narinfo is None:
            return
        fields = dict(line.split(": ", 1) for line in narinfo.decode().splitlines())
        if fields["NarHash"] != str(nar_hash):
            self.wrong.append(f"NarHash {fields['NarHash']}")
        kept = self._get(f"/{fields['URL']}")
        if kept is not None and Hash.of(decompressed(kept)) != nar_hash:
            self.wrong.append(f"{path}: zstd")
        nar = self._get(f"/nar/{path.hash_part}.nar")
        if nar is not None and Hash.of(nar) != nar_hash:
            self.wrong.append(f"{path}: none")

    def _get(self, target: str) -> bytes | None:
        try:
            if self._raw is None:
                self._raw = Raw(self._server.port)
            self._raw.ask(target)
            status, headers = self._raw.head()
            body = self._raw.body(headers)
        except (Cut, ConnectionError):
            assert self._raw is not None
            self._raw.socket.close()
            self._raw = None
            self.statuses["cut"] += 1
            return None
        self.statuses[status] += 1
        self._check(target, status, headers)
        return body if status == 200 else None

    def _check(self, target: str, status: int, headers: HTTPMessage) -> None:
        if status not in {200, 503} or (status == 503 and headers["Retry-After"] is None):
            self.wrong.append(f"{target}: {status}")


@pytest.mark.parametrize("connections", [True, False])
def test_under_load(server: Server, daemon: Lab, paths: dict[StorePath, Hash], *, connections: bool) -> None:
    """Its connections die with it, as at a reboot or when it is killed; or outlive it, as when it is updated."""
    warm_up(server, paths)
    workers = server.processes()[1:]
    before = [Held.by(worker) for worker in workers]
    stop = threading.Event()
    clients = [Client(server, paths, stop) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    recoveries = []
    try:
        for _ in range(RESTARTS):
            forget_what_is_known(server, daemon)
            until_statuses(clients, 200)
            daemon.stop_daemon(connections=connections)
            if connections:
                forget_what_is_known(server, daemon)
                until_statuses(clients, 503)
            daemon.start_daemon(awaited=True)
            recoveries.append(seconds_until_well(server, daemon, paths))
    finally:
        stop.set()
        for client in clients:
            client.join(TIME_LIMIT)
    assert not any(client.wrong for client in clients), [client.wrong for client in clients]
    assert max(recoveries) < RECOVERY_SECONDS
    for worker, held in zip(workers, before, strict=True):
        # Files of the compressed NARs stay open for a while, as do connections to the daemon.
        await_return(worker, held, descriptors=PATHS + 8, threads=40)
    assert "Traceback" not in server.output()
    assert "unforeseen" not in server.output()
    # One for temporary roots and four others for each worker; those that a restart left behind end with their roots.
    assert len(daemon.connections()) <= 2 * 5


def warm_up(server: Server, paths: dict[StorePath, Hash]) -> None:
    for path in list(paths)[:20]:
        for _ in range(4):
            assert server.get(f"/nar/{path.hash_part}.nar").status == 200


def forget_what_is_known(server: Server, daemon: Lab) -> None:
    """Something has changed in the store: whatever the server remembers, it must ask again."""
    os.utime(daemon.real_store)


def until_statuses(clients: list[Client], status: int) -> None:
    """Return when many a client has had another answer with this status."""
    before = sum(client.statuses[status] for client in clients)
    deadline = time.monotonic() + TIME_LIMIT
    while sum(client.statuses[status] for client in clients) < before + 50:
        assert time.monotonic() < deadline, [client.statuses for client in clients]
        assert not any(client.wrong for client in clients), [client.wrong for client in clients]
        time.sleep(0.01)


def seconds_until_well(server: Server, daemon: Lab, paths: dict[StorePath, Hash]) -> float:
    """How long it takes until every worker answers what it has to ask the daemon for."""
    began = time.monotonic()
    well = 0
    while well < 20:
        path = random.choice(list(paths))
        status = server.get(f"/nar/{path.hash_part}.nar").status
        assert status in {200, 503}
        well = well + 1 if status == 200 else 0
        assert time.monotonic() < began + TIME_LIMIT
    return time.monotonic() - began
