"""A nix-daemon that is killed and comes back while clients download: the truth, or 503, and soon the truth again."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from checking_client import checking
from lab import Lab
from server import Server, settings_of
from watched import TIME_LIMIT, Held, await_return, random_file

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

CLIENTS: Final = 8
PATHS: Final = 60
RESTARTS: Final = 4
RECOVERY_SECONDS: Final = 10.0


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


@pytest.mark.slow
@pytest.mark.parametrize("connections", [True, False])
def test_under_load(server: Server, daemon: Lab, paths: dict[StorePath, Hash], *, connections: bool) -> None:
    """Its connections die with it, as at a reboot or when it is killed; or outlive it, as when it is updated."""
    warm_up(server, paths)
    workers = server.processes()[1:]
    before = [Held.by(worker) for worker in workers]
    recoveries = []
    with checking(server, paths, count=CLIENTS) as clients:
        for _ in range(RESTARTS):
            forget_what_is_known(daemon)
            clients.until(200)
            daemon.stop_daemon(connections=connections)
            if connections:
                forget_what_is_known(daemon)
                clients.until(503)
            daemon.start_daemon(awaited=True)
            recoveries.append(seconds_until_well(server, paths))
    clients.assert_truthful({200, 503})
    assert max(recoveries) < RECOVERY_SECONDS
    for worker, held in zip(workers, before, strict=True):
        # Files of the compressed NARs stay open for a while, as do connections to the daemon (five) and what the first
        # write of a worker opens: the catalog once more (three descriptors, with its log and its lock).
        await_return(worker, held, descriptors=PATHS + 5 + 3 + 4, threads=40)
    assert "Traceback" not in server.output()
    assert "unforeseen" not in server.output()
    # One for temporary roots and four others for each worker; those that a restart left behind end with their roots.
    assert len(daemon.connections()) <= 2 * 5


def warm_up(server: Server, paths: dict[StorePath, Hash]) -> None:
    for path in list(paths)[:20]:
        for _ in range(4):
            assert server.get(f"/nar/{path.hash_part}.nar").status == 200


def forget_what_is_known(daemon: Lab) -> None:
    """Something has changed in the store: whatever the server remembers, it must ask again."""
    os.utime(daemon.real_store)


def seconds_until_well(server: Server, paths: dict[StorePath, Hash]) -> float:
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
