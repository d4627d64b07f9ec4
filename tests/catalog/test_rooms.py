"""`[storage]`: several directories with catalogs of their own are held to limits of all together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from catalogs import hash_part, opened_catalog, publication, store_path
from msgspec.structs import replace
from waiting import eventually

from harmonia_py.catalog.caches import DEFAULT_CACHE, STORE, CacheId, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Collected, Scope
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.packs import PackedSize
from harmonia_py.catalog.pins import PinName
from harmonia_py.catalog.quota import Limits
from harmonia_py.catalog.rooms import Room, Rooms
from harmonia_py.database.catalog import SqlCatalog

NOW: Final = 1_700_000_000


class NoPacks:
    """No file is in chunks."""

    async def size(self) -> PackedSize:
        return PackedSize()

    async def condemned(self) -> int:
        return 0

    async def collect(self) -> bool:
        return False

    def note_deleted(self, now: Timestamp) -> None:
        pass


class Place:
    """A directory of one cache: its catalog, and the keys that were deleted in it."""

    def __init__(self, catalog: SqlCatalog, cache: CacheId, device: int) -> None:
        self.catalog = catalog
        self.cache = cache
        self.free = 10_000
        self.deleted: list[str] = []
        self.uses = LastUses(catalog.objects, lambda: NOW)
        self.room = Room(
            collector=Collector(catalog.collection, catalog.garbage, self._delete, sizes=catalog.objects, batch=2),
            scopes=self._scopes,
            sizes=catalog.objects,
            uses=self.uses,
            collecting=catalog.database.collecting,
            free_bytes=self._free_bytes,
            device=device,
            packs=NoPacks(),
            wanted=catalog.room_wanted,
        )

    async def _scopes(self) -> Sequence[Scope]:
        return [Scope(cache=self.cache, settings=CacheSettings(grace=0), deleted=False)]

    async def _free_bytes(self) -> int:
        return self.free

    async def _delete(self, keys: Sequence[str]) -> Collection[str]:
        self.deleted += keys
        return ()

    async def keep(self, *names: str, used: int, references: Sequence[str] = ()) -> None:
        for name in names:
            await self.catalog.objects.publish(publication(self.cache, name, references), now=Timestamp(used))

    async def names(self) -> set[str]:
        return {one.path_info.store_path.name for one in await self.catalog.objects.page(self.cache, None, 100)}


class House:
    """What was pushed, and what was compressed; each file has a hundred bytes."""

    def __init__(self, pushed: Place, copies: Place) -> None:
        self.pushed = pushed
        self.copies = copies
        self.rooms = Rooms(clock=lambda: NOW, seconds=0.05)
        self.rooms.add(pushed.room)
        self.leave = self.rooms.add(copies.room)

    async def names(self) -> set[str]:
        return await self.pushed.names() | await self.copies.names()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        places = []
        for number, cache in enumerate((DEFAULT_CACHE, STORE)):
            directory = tmp_path / str(number)
            directory.mkdir()
            places.append(Place(await stack.enter_async_context(opened_catalog("sqlite", directory)), cache, number))
        yield House(*places)


async def test_a_look_that_finds_room_enough_holds_up_no_process_that_collects(house: House) -> None:
    """Every ten seconds each look took the locks of all catalogs before it knew whether there was anything to do."""
    await house.pushed.keep("old", used=NOW - 100)
    house.rooms.limits = Limits(max_size=1000, min_free=1000)
    house.rooms.add(replace(house.pushed.room, collecting=_refuse))
    assert await house.rooms.look() == Collected()


def _refuse(wait_seconds: float) -> AbstractAsyncContextManager[bool]:
    raise AssertionError(f"the lock was asked for, for {wait_seconds} s")


async def test_the_longest_unused_goes_first_wherever_it_is(house: House) -> None:
    await house.pushed.keep("old", used=NOW - 100)
    await house.copies.keep("older", used=NOW - 200)
    await house.pushed.keep("new", used=NOW - 10)
    await house.copies.keep("newer", used=NOW - 5)
    house.rooms.limits = Limits(max_size=300)
    assert (await house.rooms.look()).removed == 2, "a little more than must be"
    assert await house.names() == {"new", "newer"}
    assert len(house.copies.deleted) == 1
    assert await house.rooms.look() == Collected(), "there is room now"


async def test_room_is_made_for_a_file_that_found_none_wherever_the_longest_unused_is(house: House) -> None:
    """Below the limit nothing went, and above it no push was taken: a large file was refused for ever."""
    await house.copies.keep("older", used=NOW - 200)
    await house.pushed.keep("new", used=NOW - 10)
    house.rooms.limits = Limits(max_size=250)
    assert await house.rooms.look() == Collected()
    await house.pushed.catalog.room_wanted.want(None, 130, now=Timestamp(NOW))
    assert (await house.rooms.look()).removed == 1
    assert await house.names() == {"new"}
    assert await house.rooms.look() == Collected(), "there is room now"


async def test_nothing_goes_without_a_limit_or_below_it(house: House) -> None:
    await house.pushed.keep("a", "b", used=NOW - 100)
    assert await house.rooms.look() == Collected()
    house.rooms.limits = Limits(max_size=200)
    assert await house.rooms.look() == Collected()


async def test_what_a_pin_keeps_stays_and_the_others_go_in_its_place(house: House) -> None:
    await house.pushed.keep("libc", used=NOW - 300)
    await house.pushed.keep("app", used=NOW - 200, references=["libc"])
    await house.pushed.catalog.pins.set(
        DEFAULT_CACHE, PinName("release"), store_path("app"), set_by="", now=Timestamp(NOW)
    )
    await house.copies.keep("a", "b", used=NOW - 10)
    house.rooms.limits = Limits(max_size=210)
    await house.rooms.look()
    assert await house.names() == {"libc", "app"}


async def test_what_cannot_be_held_to_the_limits_is_not_told_again_and_again(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """Every ten seconds the log said that 0 paths are to go, for as long as pins kept everything."""
    caplog.set_level(logging.INFO)
    await house.pushed.keep("app", used=NOW - 200)
    await house.pushed.catalog.pins.set(
        DEFAULT_CACHE, PinName("release"), store_path("app"), set_by="", now=Timestamp(NOW)
    )
    await house.copies.keep("copy", used=NOW - 10)
    house.rooms.limits = Limits(max_size=50)
    assert (await house.rooms.look()).removed == 1
    assert "[storage]" in caplog.text
    caplog.clear()
    assert await house.rooms.look() == Collected()
    assert "[storage]" not in caplog.text


async def test_roots_go_before_what_they_reference_across_directories(house: House) -> None:
    await house.pushed.keep("libc", used=NOW - 300)
    await house.pushed.keep("app", used=NOW - 200, references=["libc"])
    await house.copies.keep("copy", used=NOW - 100)
    house.rooms.limits = Limits(max_size=250)
    await house.rooms.look()
    assert await house.names() == {"libc", "copy"}


async def test_what_was_used_a_moment_ago_is_not_among_the_longest_unused(house: House) -> None:
    """A use is written down once a minute; a look in between saw the last one but one."""
    await house.pushed.keep("used", used=NOW - 300)
    await house.copies.keep("copy", used=NOW - 100)
    house.pushed.uses.note(DEFAULT_CACHE, hash_part("used"))
    house.rooms.limits = Limits(max_size=110)
    await house.rooms.look()
    assert await house.names() == {"used"}


async def test_room_on_a_file_system_is_made_by_what_is_on_it(house: House) -> None:
    await house.pushed.keep("a", used=NOW - 300)
    await house.copies.keep("b", "c", used=NOW - 100)
    house.copies.free = 50
    house.rooms.limits = Limits(min_free=100)
    await house.rooms.look()
    assert "a" in await house.names()
    assert len(await house.copies.names()) == 1


async def test_nothing_is_done_while_another_process_collects(house: House) -> None:
    await house.pushed.keep("a", "b", used=NOW - 300)
    house.rooms.limits = Limits(max_size=100)
    async with house.copies.catalog.database.collecting() as is_theirs:
        assert is_theirs
        assert await house.rooms.look() == Collected()
    assert (await house.rooms.look()).removed


async def test_room_is_made_once_the_job_that_makes_chunks_lets_go(house: House) -> None:
    """It looked for a moment every ten seconds, while the job was at it nearly all the time: the disk filled up."""
    await house.pushed.keep("a", "b", used=NOW - 300)
    house.rooms.limits = Limits(max_size=100)
    collecting, looks = house.copies.catalog.database.collecting, asyncio.Queue[None]()

    def noted(wait_seconds: float) -> AbstractAsyncContextManager[bool]:
        looks.put_nowait(None)
        return collecting(wait_seconds)

    house.leave()
    house.rooms.add(replace(house.copies.room, collecting=noted))
    async with collecting():
        looking = asyncio.create_task(house.rooms.run())
        await looks.get()
    try:
        await eventually(lambda: house.pushed.deleted)
        assert looks.empty(), "made by the look that had waited"
    finally:
        looking.cancel()
        await asyncio.wait([looking])


async def test_a_directory_that_is_not_kept_any_more_counts_no_more(house: House) -> None:
    await house.pushed.keep("a", used=NOW - 300)
    await house.copies.keep("b", "c", used=NOW - 400)
    house.leave()
    house.rooms.limits = Limits(max_size=100)
    assert await house.rooms.look() == Collected()
