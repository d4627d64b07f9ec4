"""Kept files are given without the framework for as long as they are right, by each worker: on the real server."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from server import Server, settings_of
from waiting import wait_until
from watched import random_file

from harmonia_py.nix.store_path import StorePath

# A look a second, and what a machine under load adds.
BOUND_SECONDS: Final = 10.0
# New connections, so many that every worker has some.
REQUESTS: Final = 24


@pytest.fixture
def settings(daemon: Lab, disk_path: Path) -> dict[str, Any]:
    kept: dict[str, Any] = {"cache": {"directory": str(disk_path / "kept")}}
    # A scrub drops what it has read from the page cache, and such a file is opened by a thread.
    return settings_of(daemon) | kept | {"workers": 2, "storage": {"scrub_every": "never"}}


@pytest.fixture
def server(daemon: Lab, settings: dict[str, Any], tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


@pytest.fixture
def path(daemon: Lab, tmp_path: Path) -> StorePath:
    path = daemon.add(random_file(tmp_path / "file", 200_000))
    # As a store in which nothing has happened for a while.
    os.utime(daemon.real_store, (1, 1))
    return path


def kept_url(server: Server, path: StorePath) -> str:
    """The URL of the NAR of `path`, whose file is kept from now on."""

    def text() -> str:
        return server.get(f"/{path.hash_part}.narinfo").body.decode()

    url = next(line for line in text().splitlines() if line.startswith("URL: ")).removeprefix("URL: ")
    assert server.get(f"/{url}").status == 200
    wait_until(lambda: "FileHash: " in text())
    return f"/{url}"


def statuses(server: Server, url: str) -> set[int]:
    return {server.get(url).status for _ in range(REQUESTS)}


def test_the_file_of_a_deleted_path_is_absent_within_the_bound_and_there_again_when_the_path_is(
    settings: dict[str, Any], daemon: Lab, path: StorePath, tmp_path: Path
) -> None:
    with Server(tmp_path, daemon.env, settings) as server:
        url = kept_url(server, path)
    # This one has not read the path to compress it, and does not keep it from being deleted.
    with Server(tmp_path, daemon.env, settings) as server:
        whole = server.get(url).body
        assert statuses(server, url) == {200}
        daemon.delete(path)
        deadline = time.monotonic() + BOUND_SECONDS
        while statuses(server, url) != {404}:
            assert time.monotonic() < deadline
        assert daemon.add(tmp_path / "file") == path
        assert statuses(server, url) == {200}
        assert server.get(url).body == whole
        assert "error:" not in server.output()


def test_a_file_that_is_gone_is_made_anew_at_once(server: Server, path: StorePath, disk_path: Path) -> None:
    url = kept_url(server, path)
    whole = server.get(url).body
    assert statuses(server, url) == {200}
    (file,) = (disk_path / "kept" / "blobs").glob(f"*/{path.hash_part}*")
    file.unlink()
    assert {server.get(url).body for _ in range(REQUESTS)} == {whole}
    wait_until(file.exists)
    assert "error:" not in server.output()


def test_a_file_that_another_program_has_changed_is_not_given(server: Server, path: StorePath, disk_path: Path) -> None:
    url = kept_url(server, path)
    whole = server.get(url).body
    (file,) = (disk_path / "kept" / "blobs").glob(f"*/{path.hash_part}*")
    with file.open("r+b") as changed:
        changed.write(b"other")
    assert {server.get(url).body for _ in range(REQUESTS)} == {whole}


def test_what_is_given_counts_as_used(server: Server, path: StorePath, disk_path: Path) -> None:
    """Files go that no client has asked for: one that each worker gives without the framework is asked for."""
    url = kept_url(server, path)
    (file,) = (disk_path / "kept" / "blobs").glob(f"*/{path.hash_part}*")
    os.utime(file, ns=(0, file.stat().st_mtime_ns))
    assert statuses(server, url) == {200}
    server.stop()
    assert file.stat().st_atime > 0
