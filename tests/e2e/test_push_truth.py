"""Nothing lies: exit status, JSON and what the cache serves agree, whatever happens to a push."""

import asyncio
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path

import prefork
import pytest
from clients import TIME_LIMIT, Pushed, Team, parse
from lab import Lab
from pushing_proxy import PushingProxy

from harmonia_py.client.answers import SessionInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.http import HttpServer
from harmonia_py.client.made_file import PART_BYTES
from harmonia_py.client.push import Push
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.wiring.local_paths import open_local_paths, store_config
from harmonia_py.wiring.push_client import Silent


def make_writable(path: Path) -> None:
    path.parent.chmod(0o755)
    path.chmod(0o644)


def test_one_of_fifty_paths_is_damaged(team: Team, daemon: Lab, tmp_path: Path) -> None:
    """Nix pushes what the disk has under the hash that the database has."""
    files = [tmp_path / f"n{number}" for number in range(50)]
    for file in files:
        file.write_text(file.name)
    paths = [daemon.store_dir.parse_path(path) for path in daemon.nix_store("--add", *map(str, files)).split()]
    damaged = daemon.real(paths[17])
    make_writable(damaged)
    damaged.write_text("XX")
    done = team.user("ci", team.push).push(*paths)
    assert done.status == 1
    assert done.states() == {path: "failed" if path == paths[17] else "pushed" for path in paths}
    assert "its files are not what the store says" in done.paths[paths[17]]["reason"]
    assert [team.serves(path) for path in paths] == [path != paths[17] for path in paths]


class Losing(PushApi):
    """Of a cache that loses something just before the session ends.

    Attributes:
        looks: how many paths were asked for as a substituter asks.
    """

    def __init__(self, server: HttpServer, root: str, lose: Callable[[], object]) -> None:
        super().__init__(server, root)
        self._lose = lose
        self.looks = 0

    async def served(self, hash_part: HashPart, store_dir: StoreDir) -> NarInfo | None:
        self.looks += 1
        return await super().served(hash_part, store_dir)

    async def finish(
        self, session: SessionInfo, roots: Collection[HashPart], pins: Mapping[str, StorePath] | None = None
    ) -> Collection[HashPart]:
        await asyncio.to_thread(self._lose)
        return await super().finish(session, roots, pins)


async def test_a_root_that_is_lost_behind_the_last_look_has_failed(team: Team, daemon: Lab, tmp_path: Path) -> None:
    """The server named it at the end of the session, and the exit status was 0; and 127 roots were all asked for."""
    files = [tmp_path / f"n{number}" for number in range(127)]
    for file in files:
        file.write_text(file.name)
    added = await asyncio.to_thread(daemon.nix_store, "--add", *map(str, files))
    paths = [daemon.store_dir.parse_path(path) for path in added.split()]
    user = team.user("ci", team.push)
    assert (await asyncio.to_thread(user.push, *paths)).status == 0
    lost = paths[1].hash_part

    def lose() -> None:
        team.machine.do("delete", "team", lost, "--despite-pushes")

    async with (
        HttpServer(team.server.url, team.push, connections=8) as server,
        open_local_paths(store_config(user.env)) as store,
    ):
        api = Losing(server, "team/", lose)
        summary = await Push(api, store, Silent()).run(paths)
    assert not summary.is_good
    assert [outcome.path for outcome in summary.failures] == [paths[1]]
    assert "has lost" in summary.failures[0].reason
    assert api.looks == 22


def test_what_refers_to_a_damaged_path_fails_with_it(team: Team, daemon: Lab) -> None:
    closure = daemon.closure
    file = daemon.real(closure.input0) / "bar"
    make_writable(file)
    file.write_text("XXX\n")
    done = team.user("ci", team.push).push(closure.top, closure.input1)
    assert done.status == 1
    assert done.states() == {
        closure.top: "failed",
        closure.input2: "failed",
        closure.input0: "failed",
        closure.input1: "pushed",
    }
    assert not team.serves(closure.top)
    assert team.serves(closure.input1)


def test_a_token_that_is_revoked_in_the_middle_ends_the_push(team: Team, daemon: Lab, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(6 * PART_BYTES))
    path = daemon.add(file)
    with PushingProxy(team.server.port, bytes_per_second=20_000_000) as proxy:
        user = team.user("ci", team.push)
        process = user.start("push", f"{proxy.url}/team", daemon.full(path), "--json", HARMONIA_PY_TOKEN=team.push)
        proxy.wait_for(2 * PART_BYTES)
        team.machine.do("token", "revoke", "ci")
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    done = parse(process.wait(TIME_LIMIT), stdout, stderr)
    assert (done.status, done.states()) == (1, {path: "failed"})
    assert "token" in done.summary["aborted"]
    assert not team.serves(path)


def test_a_server_that_is_restarted_in_the_middle_is_waited_for(team: Team, daemon: Lab, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(6 * PART_BYTES))
    path = daemon.add(file)
    user = team.user("ci", team.push)
    with PushingProxy(team.server.port, bytes_per_second=20_000_000) as proxy:
        process = user.start("push", f"{proxy.url}/team", daemon.full(path), "--json", HARMONIA_PY_TOKEN=team.push)
        proxy.wait_for(2 * PART_BYTES)
        team.server.stop()
        team.server.__enter__()
        proxy.lead_to(team.server.port)
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    done = parse(process.wait(TIME_LIMIT), stdout, stderr)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert team.serves(path)


def test_a_path_whose_file_the_server_has_lost_is_found_by_the_proof_and_sent_again(team: Team, daemon: Lab) -> None:
    user = team.user("ci", team.push)
    path = daemon.closure.input0
    assert user.push(path).status == 0
    for file in team.directory("nar").iterdir():
        file.unlink()
    done = user.push(path)
    assert (done.status, done.states()) == (0, {path: "pushed"}), done.stderr
    assert team.serves(path)


def random_path(lab: Lab, root: Path, size: int) -> StorePath:
    """A path with a file of so many bytes that no compression makes smaller."""
    file = root / "large"
    file.write_bytes(os.urandom(size))
    return lab.add(file)


def pushing(team: Team, url: str, token: str, *arguments: str) -> prefork.Piped:
    user = team.user("ci", None)
    return user.start("push", f"{url}/team", *arguments, "--json", HARMONIA_PY_TOKEN=token)


def ended(process: prefork.Piped) -> Pushed:
    stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    assert "Traceback" not in stderr, stderr
    return parse(process.wait(TIME_LIMIT), stdout, stderr)


def test_a_connection_that_is_lost_for_good_ends_the_push_and_what_was_published_is_said(
    team: Team, daemon: Lab, tmp_path: Path
) -> None:
    small, large = daemon.closure.input1, random_path(daemon, tmp_path, 6 * PART_BYTES)
    with PushingProxy(team.server.port, bytes_per_second=5_000_000) as proxy:
        process = pushing(team, proxy.url, team.push, daemon.full(small), daemon.full(large), "--retry-for", "1")
        proxy.wait_for(2 * PART_BYTES)
    done = ended(process)
    assert done.status == 1
    assert "no connection" in done.summary["aborted"]
    assert done.states()[large] == "failed"
    assert not team.serves(large)
    # What was published before cannot be proved any more: it is served, and the push says what it knows of it.
    assert done.states()[small] in ("pushed", "failed")
    assert done.states()[small] == "failed" or team.serves(small)


@pytest.mark.slow
def test_a_token_that_expires_in_the_middle_ends_the_push(team: Team, daemon: Lab, tmp_path: Path) -> None:
    path = random_path(daemon, tmp_path, 8 * PART_BYTES)
    token = team.token("short", "read,push", "--expires", "12h")
    with closing(sqlite3.connect(team.server.root / "state" / "catalog.sqlite", timeout=30)) as catalog, catalog:
        catalog.execute("update tokens set expires_s = ? where name = 'short'", (int(time.time()) + 15,))
    with PushingProxy(team.server.port, bytes_per_second=500_000) as proxy:
        process = pushing(team, proxy.url, token, daemon.full(path))
        proxy.wait_for(100_000)
        done = ended(process)
    assert (done.status, done.states()) == (1, {path: "failed"})
    assert "token" in done.summary["aborted"]
    assert not team.serves(path)


def test_a_server_whose_disk_is_full_says_so_and_what_had_room_is_served(tmp_path: Path, daemon: Lab) -> None:
    disk = tmp_path / "server" / "state"
    disk.mkdir(parents=True)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if subprocess.run(mounting, check=False, capture_output=True).returncode != 0:
        pytest.skip("this needs the right to mount")
    try:
        with Team(tmp_path, daemon) as team:
            user = team.user("ci", team.push)
            assert user.push(daemon.closure.input1).status == 0
            path = random_path(daemon, tmp_path, 12 * PART_BYTES)
            done = user.push(path, daemon.closure.input1)
            assert (done.status, done.states()) == (1, {path: "failed", daemon.closure.input1: "present"})
            assert "no room" in done.paths[path]["reason"]
            assert not team.serves(path)
            assert team.serves(daemon.closure.input1)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_path_that_the_cache_deletes_under_the_push_is_sent_again(team: Team, daemon: Lab, tmp_path: Path) -> None:
    """It was said to be present; the proof at the end finds that it is not served, and it goes as well."""
    top = daemon.closure.top
    assert team.user("before", team.push).push(top).status == 0
    large = random_path(daemon, tmp_path, 6 * PART_BYTES)
    with PushingProxy(team.server.port, bytes_per_second=5_000_000) as proxy:
        process = pushing(team, proxy.url, team.push, daemon.full(top), daemon.full(large))
        proxy.wait_for(2 * PART_BYTES)
        team.machine.do("delete", "team", top, "--closure", "--despite-pushes")
        done = ended(process)
    assert (done.status, done.summary["failed"]) == (0, 0), done.stderr
    assert done.states()[top] == "pushed"
    for path in done.paths:
        assert team.serves(StorePath(path)), path
