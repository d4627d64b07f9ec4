"""Every operation, against a real nix-daemon. What a bad one may do is in test_daemon.py."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from lab import Lab
from msgspec.structs import replace
from wire_parsing import is_valid_path

from harmonia_py.errors import DaemonRefused, DaemonUnreachable
from harmonia_py.nix import worker
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.handshake import Exchange
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.nix.wire import END_OF_FRAMES, write_frames
from harmonia_py.store.daemon.connection import Connection

LIMIT = 20.0


@pytest.fixture
async def connection(daemon: Lab) -> AsyncIterator[Connection]:
    connection = await Connection.open(daemon.socket, LIMIT)
    yield connection
    connection.close()
    await connection.wait_closed()


async def test_the_daemon_says_who_it_is(daemon: Lab, connection: Connection) -> None:
    version = daemon.run("nix", "--version").stdout.decode().split()[-1]
    assert connection.session.nix_version == version
    assert connection.session.release >= (2, 8)
    assert 34 <= connection.session.minor <= 38


async def test_relations_between_paths(daemon: Lab, connection: Connection) -> None:
    closure, store_dir = daemon.closure, daemon.store_dir
    assert await connection.ask(worker.query_referrers(closure.input0, store_dir), LIMIT) == [closure.input2]


async def test_validity(daemon: Lab, connection: Connection) -> None:
    top, store_dir = daemon.closure.top, daemon.store_dir
    assert await connection.ask(is_valid_path(top, store_dir), LIMIT)
    daemon.delete(top)
    assert not await connection.ask(is_valid_path(top, store_dir), LIMIT)
    assert await connection.ask(worker.query_path_info(top, store_dir), LIMIT) is None


async def test_a_refused_request_leaves_the_connection_in_step(daemon: Lab, connection: Connection) -> None:
    short = worker.query_path_from_hash_part(HashPart("abc"), daemon.store_dir)
    with pytest.raises(DaemonRefused, match=r"^invalid hash part$"):
        await connection.ask(short, LIMIT)
    assert await connection.ask(is_valid_path(daemon.closure.top, daemon.store_dir), LIMIT)


def tree_of(lab: Lab, directory: Path) -> tuple[bytes, PathInfo]:
    """A NAR of more than one frame, and the path info that it has as a source."""
    directory.mkdir()
    (directory / "file").write_bytes(b"0123456789" * 10_000)
    nar = lab.run("nix-store", "--dump", str(directory)).stdout
    ca = ContentAddress(Method.NAR, Hash.of(nar))
    store_path = ca.store_path("tree", (), lab.store_dir)
    return nar, PathInfo(store_path=store_path, nar_hash=Hash.of(nar), nar_size=len(nar), ca=ca)


async def test_a_path_is_added_with_its_nar_in_frames(daemon: Lab, connection: Connection, tmp_path: Path) -> None:
    nar, info = tree_of(daemon, tmp_path / "tree")
    exchange = worker.add_to_store_nar(info, daemon.store_dir)
    frames = write_frames(nar) + END_OF_FRAMES
    await connection.ask(Exchange(exchange.request + frames, exchange.reply), LIMIT)
    assert daemon.dump(info.store_path) == nar
    added = await connection.ask(worker.query_path_info(info.store_path, daemon.store_dir), LIMIT)
    assert added is not None
    assert replace(added, registration_time=0) == info


async def test_a_nar_that_is_not_what_was_said_is_refused_and_the_connection_stays(
    daemon: Lab, connection: Connection, tmp_path: Path
) -> None:
    nar, info = tree_of(daemon, tmp_path / "tree")
    exchange = worker.add_to_store_nar(replace(info, nar_hash=Hash.of(b"")), daemon.store_dir)
    frames = write_frames(nar) + END_OF_FRAMES
    with pytest.raises(DaemonRefused, match="hash mismatch"):
        await connection.ask(Exchange(exchange.request + frames, exchange.reply), LIMIT)
    assert not await connection.ask(is_valid_path(info.store_path, daemon.store_dir), LIMIT)


async def test_a_closed_connection_answers_nothing(daemon: Lab, connection: Connection) -> None:
    connection.close()
    with pytest.raises(DaemonUnreachable):
        await connection.ask(is_valid_path(daemon.closure.top, daemon.store_dir), LIMIT)


async def connect_often(daemon: Lab) -> None:
    connections = await asyncio.gather(*[Connection.open(daemon.socket, LIMIT) for _ in range(30)])
    for connection in connections:
        connection.close()
        await connection.wait_closed()


def test_a_full_backlog_is_waited_for(daemon: Lab) -> None:
    """The daemon's has five places. With it full asyncio took the socket for connected, and uvloop gave up."""
    asyncio.run(connect_often(daemon))
    uvloop.run(connect_often(daemon))
