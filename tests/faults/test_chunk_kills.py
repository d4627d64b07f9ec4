"""`kill -9` of the process that makes chunks and collects packs, at any moment, while clients push, read and delete."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from chunking import LIBRARY, make_chunks, nar_of, program
from house import Clock, House, download
from pushed_paths import REFERENCE, STORE, Pushed, push, pushed
from pushing import TEAM, pushed_to

from harmonia_py.catalog.strays import discard_strays
from harmonia_py.chunks.pack_collector import PacksCollected
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

ROUNDS: Final = int(os.environ.get("HARMONIA_PY_CHUNK_KILLS", "12"))
SEED: Final = int(os.environ.get("HARMONIA_PY_SEED", "0"))
DAY: Final = 86_400

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def path_of(number: int) -> Pushed:
    path = StorePath(f"{base32.encode(Hash.of(str(number).encode()).digest[:20])}-path-{number}")
    # Every third is a build of the same program.
    return pushed(path, program(path, 400_000, number % 3), REFERENCE, compression="zstd")


@asynccontextmanager
async def job(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, when it has begun; killed at the end."""
    script = Path(__file__).parents[1] / "chunking_process.py"
    environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(directory), stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_whatever_is_killed_every_nar_stays_right_and_no_byte_is_left(tmp_path: Path) -> None:
    """Moments and what clients do are drawn at random; the seed is in a line of output."""
    chance = random.Random(SEED)  # no secret
    print("seed", SEED)
    async with pushed_to(tmp_path, STORE, clock=Clock()) as server:
        house = House(server, Clock())
        await house.published(LIBRARY)
        here: dict[int, Pushed] = {}
        for number in range(ROUNDS):
            for one in range(2):
                here[2 * number + one] = path_of(2 * number + one)
                assert (await push(server, here[2 * number + one])).status == 200
            async with job(tmp_path):
                await asyncio.sleep(chance.uniform(0.0, 1.5))  # not to wait for anything: this is the moment
                gone = chance.choice(sorted(here))
                await delete(house, here.pop(gone))
                await check(house, here)
            await check(house, here)
        await make_chunks(house)
        await check(house, here)
        for what in here.values():
            await delete(house, what)
        await delete(house, LIBRARY)
        await discard_strays(server.node.blobs, server.catalog.repairs, now=server.node.now())
        for days in (7, 8):
            await house.look(days * DAY)
            while await server.node.chunking.pack_collector().run() != PacksCollected():
                pass
        await house.look(9 * DAY)
        assert house.files() == {"team/nix-cache-info"}


async def check(house: House, here: dict[int, Pushed]) -> None:
    for one in (LIBRARY, *here.values()):
        answer = await download(house, one)
        assert answer.status == 200
        assert nar_of(answer.body) == nar_of(one.data)


async def delete(house: House, what: Pushed) -> None:
    row = await house.server.catalog.caches.find(TEAM)
    assert row is not None
    await house.server.catalog.deletions.delete(
        row.id, [what.path.hash_part], deleted_by="test", despite_pushes=True, now=house.server.node.now()
    )
