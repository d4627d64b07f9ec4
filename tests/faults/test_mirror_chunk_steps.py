"""`kill -9` before and after each change that making chunks of what a mirror keeps, and evicting it, consists of.

Whatever the step, the next process serves every NAR that was not evicted without asking an upstream, ends the work, and
leaves nothing behind.
"""

from functools import partial
from pathlib import Path
from typing import Final

import mirror_chunk_steps
import pytest
from fault_upstream import FaultUpstream, Package
from killed_steps import killed_at_each_step
from mirror_chunk_steps import LIMIT, NOWHERE
from mirror_chunks import World, build, mirrored

from harmonia_py.catalog.quota import Limits

BUILDS: Final = [build(number, seed=number) for number in range(3)]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


async def served(world: World) -> list[Package]:
    """The builds that are here; each must be right."""
    here = []
    for one in BUILDS:
        nar = await world.fetch(one) if await world.mirror.narinfo(one.hash_part) else None
        assert nar in {None, one.nar}
        if nar is not None:
            here.append(one)
    return here


async def holds(name: str, directory: Path) -> None:
    """What must hold of a directory whose process was killed."""
    async with mirrored(NOWHERE, directory, offline=True) as world:
        await world.take_over()
        here = await served(world)
        assert here == (BUILDS if name == "make" else BUILDS[-len(here) :])
        world.limits = Limits() if name == "make" else Limits(max_size=LIMIT)
        await world.make_chunks()
        for _ in range(2):
            await world.look()
            await world.forget_grace()
        disk = world.disk()
        assert disk["whole"] == 0
        assert await world.catalog.repairs.wrong_totals() == []
        here = await served(world)
        if name == "make":
            assert here == BUILDS
        else:
            # What was condemned when the process was killed goes as well as what goes for the same bytes.
            assert here in (BUILDS[1:], BUILDS[2:])
            assert disk["packs"] <= LIMIT
        world.limits = Limits(max_size=1)
        await world.look()
        await world.forget_grace()
        assert world.disk().total() == 0
        assert await world.catalog.repairs.wrong_totals() == []


async def killed(template: Path, name: str) -> int:
    return await killed_at_each_step(template, mirror_chunk_steps.run, name, partial(holds, name))


async def kept_in(upstream: FaultUpstream, directory: Path, *, as_chunks: bool) -> None:
    upstream.serve(*BUILDS)
    async with mirrored(upstream.url, directory) as world:
        for number, one in enumerate(BUILDS):
            assert await world.fetch(one) == one.nar
            await world.used(one, number)
        if as_chunks:
            await world.make_chunks()
            await world.look()


async def test_chunks_of_a_mirror_are_made_by_a_process_that_is_killed_at_any_step(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    await kept_in(upstream, tmp_path / "template", as_chunks=False)
    # A pack: put and named; three recipes: put, and in the place of their files, which are deleted.
    assert await killed(tmp_path / "template", "make") >= 2 * (1 + 3) + 2 * (1 + 3) + 3


async def test_chunks_of_a_mirror_are_evicted_by_a_process_that_is_killed_at_any_step(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    await kept_in(upstream, tmp_path / "template", as_chunks=True)
    # Condemned, removed, uses dropped, a pack written anew and named; recipe and former pack are deleted.
    assert await killed(tmp_path / "template", "evict") >= 12
