"""A mirror of four processes when it goes wrong: killed midway, without room, with clients that leave and that lag."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fault_upstream import KEY, Connection, FaultUpstream, Package, package
from mirrors import kept, named
from server import Server
from worker_clients import connect

SIZE = 6_000_000


class Gate:
    """A NAR that stands still half-way until the gate is open."""

    def __init__(self, upstream: FaultUpstream, one: Package) -> None:
        self.half = asyncio.Event()
        self.open = asyncio.Event()
        self._file = one.file
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = self._speak

    async def _speak(self, connection: Connection) -> None:
        middle = len(self._file) // 2
        await connection.respond(self._file[:middle], Content_Length=str(len(self._file)))
        self.half.set()
        await self.open.wait()
        await connection.send(self._file[middle:])


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=60),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    ) as session:
        yield session


def settings(upstream: FaultUpstream, **more: Any) -> dict[str, Any]:
    table = {"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}
    return {
        "workers": 4,
        "daemon_socket": "/nowhere/socket",
        "real_nix_store": "/nowhere/store",
        "upstream": [table],
    } | more


@asynccontextmanager
async def running(tmp_path: Path, values: dict[str, Any]) -> AsyncIterator[Server]:
    server = Server(tmp_path, os.environ, values)
    await asyncio.to_thread(server.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def directory(server: Server) -> Path:
    return server.root / "cache"


async def download(session: aiohttp.ClientSession, server: Server, one: Package) -> bytes:
    async with session.get(f"{server.url}/{one.our_url}") as response:
        assert response.status == 200, response.status
        return await response.read()


class Begun:
    """A download of which the first bytes have come, so that the client library does not begin it anew by itself."""

    def __init__(self, session: aiohttp.ClientSession, server: Server, one: Package) -> None:
        self._request = session.get(f"{server.url}/{one.our_url}")

    async def __aenter__(self) -> aiohttp.ClientResponse:
        response = await self._request.__aenter__()
        await response.content.readexactly(1000)
        return response

    async def __aexit__(self, *_: object) -> None:
        await self._request.__aexit__(None, None, None)


async def until_kept(server: Server, one: Package) -> None:
    async with asyncio.timeout(30):
        while one.hash_part not in named(directory(server)):  # noqa: ASYNC110  # another process makes it true
            await asyncio.sleep(0.02)


async def test_twenty_clients_over_four_workers_cause_one_download(
    upstream: FaultUpstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    one = package(size=SIZE)
    gate = Gate(upstream, one)
    async with running(tmp_path, settings(upstream)) as server:
        clients = [asyncio.create_task(download(session, server, one)) for _ in range(20)]
        leaves = asyncio.create_task(download(session, server, one))
        await gate.half.wait()
        leaves.cancel()
        gate.open.set()
        assert all(data == one.file for data in await asyncio.gather(*clients))
        await until_kept(server, one)
    assert upstream.count("/nar/") == 1


async def test_what_one_worker_was_told_no_other_asks_again(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = package()
    upstream.serve(one)
    async with running(tmp_path, settings(upstream)) as server, AsyncExitStack() as stack:
        clients = await connect(server, stack)
        for client in clients:
            assert await client.get(f"/{one.hash_part}.narinfo") == 200
        for client in clients:
            assert await client.get(f"/{one.our_url}") == 200
    assert (upstream.count(".narinfo"), upstream.count("/nar/")) == (1, 1)


async def test_the_fastest_and_the_slowest_client_get_all_of_it(
    upstream: FaultUpstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    one = package(size=SIZE)
    upstream.serve(one)
    async with running(tmp_path, settings(upstream)) as server, Begun(session, server, one) as slow:
        assert await download(session, server, one) == one.file
        await until_kept(server, one)
        assert await slow.read() == one.file[1000:]
    assert upstream.count("/nar/") == 1


async def test_killed_workers_leave_nothing_behind_and_their_successors_fetch_again(
    upstream: FaultUpstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    one = package(size=SIZE)
    gate = Gate(upstream, one)
    async with running(tmp_path, settings(upstream)) as server:
        async with Begun(session, server, one) as cut:
            await gate.half.wait()
            for worker in server.processes()[1:]:
                os.kill(worker, signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await cut.read()
        gate.open.set()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await download(session, server, one) == one.file
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        await until_kept(server, one)
    assert upstream.count("/nar/") == 2


async def test_a_killed_supervisor_leaves_nothing_behind(
    upstream: FaultUpstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    one = package(size=SIZE)
    gate = Gate(upstream, one)
    values = settings(upstream, shutdown_timeout=1.0)
    async with running(tmp_path, values) as server, Begun(session, server, one) as cut:
        await gate.half.wait()
        os.kill(server.process.pid, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await cut.read()
    gate.open.set()
    async with running(tmp_path, values) as server:
        assert not list((directory(server) / "growing").iterdir())
        assert await download(session, server, one) == one.file
        await until_kept(server, one)


def fill(disk: Path) -> None:
    with (disk / "others").open("wb", buffering=0) as others, contextlib.suppress(OSError):
        while others.write(bytes(65536)):
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("this needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


async def test_where_the_disk_is_full_downloads_pass_through_and_ready_says_so(
    upstream: FaultUpstream, session: aiohttp.ClientSession, tmp_path: Path, small_disk: Path
) -> None:
    one = package(size=SIZE)
    upstream.serve(one)
    (small_disk / "others").write_bytes(bytes(22 << 20))
    values = settings(upstream, mirror={"directory": str(small_disk / "mirror"), "min_free": 0})
    async with running(tmp_path, values) as server:
        assert [await download(session, server, one) for _ in range(2)] == [one.file] * 2
        assert kept(small_disk / "mirror") == []
        assert upstream.count("/nar/") == 2
        async with session.get(f"{server.url}/ready") as ready:
            assert (ready.status, await ready.text()) == (503, "mirror-directory\n")
        async with session.get(f"{server.url}/{one.our_url}", headers={"Range": "bytes=1000000-"}) as part:
            assert (part.status, await part.read()) == (206, one.file[1_000_000:])


async def test_a_disk_that_fills_up_midway_costs_one_attempt(
    upstream: FaultUpstream, session: aiohttp.ClientSession, tmp_path: Path, small_disk: Path
) -> None:
    one = package(size=SIZE, compression="none")
    gate = Gate(upstream, one)
    values = settings(upstream, mirror={"directory": str(small_disk / "mirror"), "min_free": 0})
    async with running(tmp_path, values) as server:
        async with Begun(session, server, one) as cut:
            await gate.half.wait()
            fill(small_disk)
            gate.open.set()
            with pytest.raises(aiohttp.ClientError):
                await cut.read()
        assert await download(session, server, one) == one.file
        assert kept(small_disk / "mirror") == []


async def test_a_directory_that_vanishes_is_made_again(
    upstream: FaultUpstream, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    one, other = package(1), package(2)
    upstream.serve(one, other)
    async with running(tmp_path, settings(upstream)) as server:
        assert await download(session, server, one) == one.file
        await until_kept(server, one)
        shutil.rmtree(directory(server))
        assert await download(session, server, other) == other.file
        assert await download(session, server, one) == one.file
