"""Nothing is collected before the catalog was found to fit the files."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.fit import CatalogFit
from harmonia_py.catalog.strays import Strays
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import StorageError

UNKNOWN = Strays(3, BlobKey("team/narinfo"))


class World:
    """A catalog and its files: what a look finds, how often there was one, and the time."""

    def __init__(self, *found: Strays | StorageError) -> None:
        self.found = list(found)
        self.now = 0.0
        self.waited = list[float]()
        self.ended = asyncio.Event()
        self.ended.set()
        self.fit = CatalogFit(self._look, self._collecting, clock=lambda: self.now)

    async def _look(self, now: Timestamp) -> Strays:
        assert now == self.now
        await self.ended.wait()
        found = self.found.pop(0)
        if isinstance(found, StorageError):
            raise found
        return found

    @asynccontextmanager
    async def _collecting(self, wait_seconds: float) -> AsyncIterator[bool]:
        self.waited.append(wait_seconds)
        yield True

    async def may_collect(self, wait_seconds: float = 15.0) -> bool:
        async with self.fit.collecting(wait_seconds) as is_ours:
            return is_ours


async def test_eviction_and_packs_wait_as_well_until_the_catalog_fits() -> None:
    """Only the passes of the collector did: what finds no room, or makes chunks, emptied the garbage beside them."""
    world = World(UNKNOWN, Strays(0))
    assert not await world.may_collect()
    world.now += 599
    assert not await world.may_collect()
    assert not world.waited
    world.now += 1
    assert await world.may_collect()
    world.now += 10_000
    assert await world.may_collect(), "it is looked once"
    assert world.waited == [15.0, 15.0]


async def test_a_look_that_fails_is_made_again_at_once() -> None:
    world = World(StorageError("away"), Strays(1))
    with pytest.raises(StorageError):
        await world.may_collect()
    assert await world.may_collect()


async def test_a_job_that_begins_during_the_look_waits_for_it() -> None:
    """The job that makes chunks was told no while the collector looked at the start, and did nothing for a minute."""
    world = World(Strays(0))
    world.ended.clear()
    first = asyncio.create_task(world.may_collect())
    second = asyncio.create_task(world.may_collect())
    await asyncio.sleep(0)
    assert not await world.may_collect(0.0), "a push that needs room does not wait"
    world.ended.set()
    assert [await first, await second] == [True, True]
    assert not world.found, "both share one look"
