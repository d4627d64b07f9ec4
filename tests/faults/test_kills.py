"""`kill -9` at each stage of a download from an upstream: no client gets a wrong file, and nothing wrong is left."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from fault_upstream import KEY, Connection, FaultUpstream, Package, file_with_ranges, package
from mirrors import leftovers, named
from server import Server

SIZE = 3_000_000
# How many bytes of the file have been sent when the signal is; before the headers; when all has been sent.
STAGES = {"headers": None, "first byte": 0, "small": 1000, "midway": SIZE // 2, "last byte": SIZE - 1, "end": SIZE}


class Killer:
    """Serves packages; the first time that a file has come so far, it calls `kill`."""

    def __init__(self, upstream: FaultUpstream) -> None:
        self.kill: Callable[[], None] = lambda: None
        self.kills = 0
        self._upstream = upstream

    def serve(self, one: Package, stage: int | None) -> None:
        self._upstream.serve(one)
        good = file_with_ranges(one.file)
        killed = False

        async def speak(connection: Connection) -> None:
            nonlocal killed
            if killed:
                await good(connection)
                return
            killed = True
            if stage is not None:
                await connection.respond(one.file[:stage], Content_Length=str(SIZE), ETag='"tag"')
            self.kills += 1
            self.kill()
            connection.cut()

        self._upstream.answers[f"/{one.path}"] = speak


@pytest.fixture
async def killer() -> AsyncIterator[Killer]:
    async with FaultUpstream() as upstream:
        yield Killer(upstream)


def server_of(killer: Killer, root: Path) -> Server:
    table = {"url": killer._upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}
    nowhere = {"daemon_socket": "/nowhere/socket", "real_nix_store": "/nowhere/store"}
    return Server(root, os.environ, nowhere | {"workers": 2, "shutdown_timeout": 1.0, "upstream": [table]})


async def download(server: Server, one: Package) -> bytes | None:
    """The file; None when the connection is cut or cannot be had."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        try:
            async with session.get(f"{server.url}/{one.our_url}", headers={"Accept-Encoding": "identity"}) as response:
                return await response.read() if response.status == 200 else None
        except aiohttp.ClientError:
            return None


async def download_at_last(server: Server, one: Package) -> bytes:
    async with asyncio.timeout(30):
        while (data := await download(server, one)) is None:  # noqa: ASYNC110  # another process makes it true
            await asyncio.sleep(0.02)
        return data


async def until_kept(directory: Path, one: Package) -> None:
    """Wait until the catalog names the file, and hold the file to what it should be."""
    name = str(one.our_url).removeprefix("nar/")
    async with asyncio.timeout(30):
        while one.hash_part not in named(directory):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.02)
    (file,) = (path for path in (directory / "blobs").glob("*/*") if path.name == name)
    assert file.read_bytes() == one.file


@pytest.mark.parametrize("stage", ["headers", "small", "midway", "end"])
async def test_workers_may_be_killed_at_any_stage(killer: Killer, tmp_path: Path, stage: str) -> None:
    one = package(size=SIZE, compression="none")
    killer.serve(one, STAGES[stage])
    server = server_of(killer, tmp_path)

    def kill_workers() -> None:
        for worker in server.processes()[1:]:
            os.kill(worker, signal.SIGKILL)

    killer.kill = kill_workers
    await asyncio.to_thread(server.__enter__)
    try:
        assert await download_at_last(server, one) == one.file
        await until_kept(server.root / "cache", one)
        assert leftovers(server.root / "cache") == []
    finally:
        await asyncio.to_thread(server.stop)
    assert killer.kills == 1


@pytest.mark.parametrize("stage", ["first byte", "last byte"])
async def test_the_supervisor_may_be_killed_at_any_stage(killer: Killer, tmp_path: Path, stage: str) -> None:
    one = package(size=SIZE, compression="none")
    killer.serve(one, STAGES[stage])
    server = server_of(killer, tmp_path)

    def kill_all() -> None:
        os.killpg(server.process.pid, signal.SIGKILL)

    killer.kill = kill_all
    await asyncio.to_thread(server.__enter__)
    try:
        data = await download(server, one)
        assert data in (None, one.file)
    finally:
        await asyncio.to_thread(server.stop)
    again = server_of(killer, tmp_path)
    await asyncio.to_thread(again.__enter__)
    try:
        assert leftovers(again.root / "cache") == []
        assert await download_at_last(again, one) == one.file
        await until_kept(again.root / "cache", one)
    finally:
        await asyncio.to_thread(again.stop)
    assert killer.kills == 1
