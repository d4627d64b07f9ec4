"""`kill -9` before and after each change that making chunks, collecting packs and taking a recipe consist of.

Whatever the step, the next process serves every NAR as it was pushed, ends the work, and leaves nothing behind.
"""

import json
from functools import partial
from pathlib import Path
from typing import Final

import chunking_steps
import pytest
from chunking import HELLO, LIBRARY, make_chunks, nar_of, program
from house import Clock, House, download, team
from killed_steps import killed_at_each_step
from msgspec.structs import replace
from pushed_paths import REFERENCE, STORE, Pushed, pushed
from pushing import pushed_to
from recipe_client import Cut, RecipeClient

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.catalog.strays import discard_strays
from harmonia_py.chunks.pack_collector import PacksCollected
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

DAY: Final = 86_400
CHUNKS: Final = CacheSettings(deduplicate="chunks")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def another(seed: int, size: int) -> Pushed:
    path = StorePath(f"{base32.encode(Hash.of(str(seed).encode()).digest[:20])}-other-{seed}")
    return pushed(path, program(path, size, seed), REFERENCE, compression="zstd")


SMALL: Final = another(3, 100_000)
LARGE: Final = another(4, 900_000)


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


async def holds(here: list[Pushed], directory: Path) -> None:
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


async def test_chunks_are_made_by_a_process_that_is_killed_at_any_step(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    async with pushed_to(template, STORE, clock=Clock()) as server:
        await House(server, Clock()).published(LIBRARY, HELLO, SMALL)
    # A pack: put and named; three recipes: put, and in the place of their files.
    here = partial(holds, [LIBRARY, HELLO, SMALL])
    assert await killed_at_each_step(template, chunking_steps.run, "make", here) >= 2 * (1 + 3) + 2 * (1 + 3)


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
    here = partial(holds, [LIBRARY, SMALL])
    assert await killed_at_each_step(template, chunking_steps.run, "collect", here) >= 12


async def test_a_recipe_is_taken_in_by_a_process_that_is_killed_at_any_step(tmp_path: Path) -> None:
    """Whatever the step, the client that comes again pushes the path, and nothing stays of the chunks that it sent."""
    template = tmp_path / "template"
    template.mkdir()
    rebuilt = StorePath("5rz1m1y0wlkzfs1b6pa0rr4x5kbbcl9q-hello-2.12.1")
    again = pushed(rebuilt, program(rebuilt, 900_000), REFERENCE, compression="zstd")
    async with pushed_to(template, STORE, CHUNKS, Clock()) as server:
        house = House(server, Clock())
        await house.published(LIBRARY, HELLO)
        await make_chunks(house)
        client, cut = await RecipeClient.begun(server), Cut.of(again)
        body = cut.body(await client.missing(cut.recipe.chunks(), await client.bases(rebuilt.name)))
        assert body.chunks
    narinfo = replace(again.claim, url="nar/<file>.nar.zst", file_hash=None, file_size=None).format(STORE).decode()
    told = {"path": rebuilt, "nar_hash": str(again.claim.path_info.nar_hash), "narinfo": narinfo}
    told |= {"chunks": body.chunks.hex(), "recipe": body.recipe.hex()}
    (template / "pushed.json").write_text(json.dumps(told))

    async def is_pushed(directory: Path) -> None:
        async with pushed_to(directory, STORE, CHUNKS, Clock()) as server:
            house = House(server, Clock())
            await check(house, LIBRARY, HELLO)
            await (await RecipeClient.begun(server)).push(again)
            await check(house, LIBRARY, HELLO, again)
            await make_chunks(house)
            await check(house, again)
            for one in (again, HELLO, LIBRARY):
                await delete(house, one)
            await collect(house)
            assert house.files() == {"team/nix-cache-info"}
            left = [one for one in server.directory.rglob("*") if one.is_file() and one.stat().st_size > 4096]
            assert left == []

    # A session, its leases, a file of the spool for the chunks and one for what is made, a file that is put and
    # entered, and a path that is published.
    assert await killed_at_each_step(template, chunking_steps.run, "recipe", is_pushed) >= 12
