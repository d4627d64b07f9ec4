"""`kill -9` before and after each change that making chunks, and collecting packs, consists of.

Whatever the step, the next process serves every NAR as it was pushed, ends the work, and leaves nothing behind.
"""

import asyncio
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Final

import chunking_steps
import pytest
from chunking import HELLO, LIBRARY, make_chunks, nar_of, program
from house import Clock, House, download, team
from pushed_paths import REFERENCE, STORE, Pushed, pushed
from pushing import pushed_to

from harmonia_py.catalog.strays import discard_strays
from harmonia_py.chunks.pack_collector import PacksCollected
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

DAY: Final = 86_400
_AT_ONCE: Final = 2
# A start of an interpreter for each step would take most of the time.
FORKS: Final = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["harmonia_py.wiring.collecting"])

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def another(seed: int, size: int) -> Pushed:
    path = StorePath(f"{base32.encode(Hash.of(str(seed).encode()).digest[:20])}-other-{seed}")
    return pushed(path, program(path, size, seed), REFERENCE, compression="zstd")


SMALL: Final = another(3, 100_000)
LARGE: Final = another(4, 900_000)


async def work(directory: Path, name: str, number: int) -> tuple[int, str]:
    """The status that a process ends with which does this work, and what it wrote at its end."""
    told = directory.with_suffix(".told")
    process = FORKS.Process(target=chunking_steps.run, args=(directory, name, number, told))
    process.start()
    await asyncio.to_thread(process.join, 120)
    assert process.exitcode is not None
    return process.exitcode, told.read_text() if told.exists() else ""


async def check(house: House, *what: Pushed) -> None:
    for one in what:
        answer = await download(house, one)
        assert answer.status == 200
        assert nar_of(answer.body) == nar_of(one.data)


async def delete(house: House, *what: Pushed) -> None:
    row = await team(house)
    parts = [one.path.hash_part for one in what]
    gone = await house.server.catalog.deletions.delete(
        row.id, parts, deleted_by="test", despite_pushes=True, now=house.server.node.now()
    )
    assert len(gone.paths) == len(what)


async def collect(house: House) -> None:
    """What the next start does, and all passes that have something to do."""
    node = house.server.node
    await discard_strays(node.blobs, house.server.catalog.repairs, now=node.now())
    await house.look(7 * DAY)
    while await node.chunking.pack_collector().run() != PacksCollected():
        pass
    await house.look(9 * DAY)


async def holds(directory: Path, here: list[Pushed]) -> None:
    """What must hold of a directory whose process was killed."""
    async with pushed_to(directory, STORE, clock=Clock()) as server:
        house = House(server, Clock())
        await check(house, *here)
        await make_chunks(house)
        await collect(house)
        await check(house, *here)
        kept = {file.partition("/")[0] for file in house.files()}
        assert kept == {"packs", "recipes", "team"}
        assert len([file for file in house.files() if file.startswith("packs/")]) == 1
        assert await server.catalog.repairs.wrong_totals() == []
        for one in here[::-1]:
            await delete(house, one)
        await collect(house)
        assert house.files() == {"team/nix-cache-info"}
        left = [one for one in server.directory.rglob("*") if one.is_file() and one.name != "nix-cache-info"]
        assert [one for one in left if one.stat().st_size > 4096] == []


async def killed_at_each_step(template: Path, name: str, here: list[Pushed]) -> int:
    """How many steps there were."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def kill_at(number: int) -> int | None:
        async with slots:
            directory = template.parent / f"step-{number}"
            await asyncio.to_thread(shutil.copytree, template, directory)
            status, output = await work(directory, name, number)
            assert status in {0, -signal.SIGKILL}, f"step {number}: {output}"
            await holds(directory, here)
            await asyncio.to_thread(shutil.rmtree, directory)
            return int(output) if status == 0 else None

    steps = await kill_at(10_000)
    assert steps is not None
    ended = await asyncio.gather(*map(kill_at, range(1, steps + 1)))
    assert ended == [None] * steps
    return steps


async def test_chunks_are_made_by_a_process_that_is_killed_at_any_step(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    async with pushed_to(template, STORE, clock=Clock()) as server:
        await House(server, Clock()).published(LIBRARY, HELLO, SMALL)
    # A pack: put and named; three recipes: put, and in the place of their files.
    assert await killed_at_each_step(template, "make", [LIBRARY, HELLO, SMALL]) >= 2 * (1 + 3) + 2 * (1 + 3)


async def test_packs_are_written_anew_and_collected_by_a_process_that_is_killed_at_any_step(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    async with pushed_to(template, STORE, clock=Clock()) as server:
        house = House(server, Clock())
        await house.published(LIBRARY, SMALL, LARGE)
        await make_chunks(house)
        await delete(house, LARGE)
        await house.look(7 * DAY)
    # Uses are dropped, what is left is put into another pack, which is named; the former one goes, and its bytes.
    assert await killed_at_each_step(template, "collect", [LIBRARY, SMALL]) >= 12
