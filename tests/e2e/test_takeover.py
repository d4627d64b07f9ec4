"""A directory that an earlier release left: everything in it is served by this one, and nothing is fetched again."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from fault_upstream import KEY, FaultUpstream, package
from mirrors import named
from old_release import put_nar, put_narinfo
from server import Server

from harmonia_py.nix.narinfo import NarInfo


@pytest.mark.parametrize("kills", [0, 3])
async def test_what_an_earlier_release_kept_is_served_without_the_upstream(
    upstream: FaultUpstream, tmp_path: Path, kills: int
) -> None:
    packages = [package(number, size=20_000) for number in range(30)]
    directory = tmp_path / "kept"
    for one in packages:
        put_nar(directory, one.path_info, one.compression, one.file, time.time() - 1000)
        narinfo = NarInfo(path_info=one.path_info, url=one.path, compression=one.compression)
        put_narinfo(directory, narinfo, "up", time.time() - 1000, 86_400.0)
    settings = {
        "workers": 2,
        "daemon_socket": "/nowhere/socket",
        "real_nix_store": "/nowhere/store",
        "mirror": {"directory": str(directory)},
        "upstream": [{"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}],
    }
    for number in range(kills):
        with Server(tmp_path, os.environ, settings) as server:
            await until_named(directory, 10 * number + 1)
            os.killpg(server.process.pid, signal.SIGKILL)
    with Server(tmp_path, os.environ, settings) as server:
        await until_named(directory, len(packages))
        for one in packages:
            narinfo_text = (await asyncio.to_thread(server.get, f"/{one.hash_part}.narinfo")).body.decode()
            assert f"FileSize: {len(one.file)}\n" in narinfo_text
            answer = await asyncio.to_thread(server.get, f"/{one.our_url}")
            assert answer.body == one.file
    assert upstream.requests == []
    assert not list((directory / "blobs").glob("*/*.narinfo"))


async def until_named(directory: Path, count: int) -> None:
    async with asyncio.timeout(60):
        while len(await asyncio.to_thread(named, directory)) < count:  # noqa: ASYNC110  # another process makes it true
            await asyncio.sleep(0.02)
