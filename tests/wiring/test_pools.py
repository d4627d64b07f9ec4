"""A reload keeps open what it needs as it was, opens the rest, and closes what nothing needs any more."""

import asyncio
from dataclasses import dataclass, field

import pytest
from waiting import eventually

from harmonia_py.errors import ConfigError
from harmonia_py.wiring import pools as module
from harmonia_py.wiring.pools import Pools, Selection, owned, running


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.0)


@dataclass(eq=False)
class Thing:
    name: str
    closed: list[str]
    needed: asyncio.Event = field(default_factory=asyncio.Event)

    async def idle(self) -> None:
        await self.needed.wait()

    def close(self) -> None:
        self.closed.append(self.name)


class World:
    def __init__(self) -> None:
        self.pools = Pools()
        self.closed: list[str] = []

    async def get(self, selection: Selection, name: str, *settings: object, at_once: bool = False) -> Thing:
        make = owned(lambda: Thing(name, self.closed), Thing.close)
        return await selection.get(name, settings, make, idle=Thing.idle, closes_at_once=at_once)


async def test_what_has_the_settings_of_before_is_what_it_was_and_only_the_rest_is_opened() -> None:
    world = World()
    async with world.pools.select() as selection:
        first = await world.get(selection, "first", 1)
        second = await world.get(selection, "second", 1)
    async with world.pools.select() as selection:
        assert await world.get(selection, "first", 1) is first
        again = await world.get(selection, "second", 2)
    assert again is not second
    second.needed.set()
    await eventually(lambda: world.closed)
    assert world.closed == ["second"]
    await world.pools.aclose()
    assert world.closed == ["second", "second", "first"]


async def test_what_depends_on_something_else_is_opened_anew_with_it() -> None:
    world = World()
    for number in range(2):
        async with world.pools.select() as selection:
            under = await world.get(selection, "under", number)
            above = await world.get(selection, "above", under)
        under.needed.set()
        above.needed.set()
    await eventually(lambda: world.closed)
    assert world.closed == ["above", "under"]
    await world.pools.aclose()


async def test_work_that_deletes_begins_when_everything_is_open() -> None:
    """An eviction went by the limits of a configuration that could not be opened, until that came out."""
    pools, limits = Pools(), []

    async def evict(limit: int) -> None:
        limits.append(limit)
        await asyncio.Event().wait()

    async def select(limit: int, *, fails: bool) -> None:
        async with pools.select() as selection:
            work = selection.running(lambda: evict(limit))
            await selection.get("eviction", (limit,), work, closes_at_once=True)
            await asyncio.sleep(0.01)  # other things are opened
            if fails:
                raise ConfigError("this cannot be opened")

    await select(3, fails=False)
    await eventually(lambda: limits == [3])
    with pytest.raises(ConfigError):
        await select(1, fails=True)
    await select(2, fails=False)
    await eventually(lambda: limits == [3, 2])
    await pools.aclose()


async def test_what_is_needed_still_is_not_closed() -> None:
    world = World()
    async with world.pools.select() as selection:
        thing = await world.get(selection, "thing")
    async with world.pools.select():
        pass
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.closed == []
    thing.needed.set()
    await eventually(lambda: world.closed)
    await world.pools.aclose()


async def test_what_is_not_to_go_on_is_closed_at_once() -> None:
    """Limits that a reload had raised evicted files for as long as a download of before ran."""
    world = World()
    async with world.pools.select() as selection:
        await world.get(selection, "eviction", 1, at_once=True)
    async with world.pools.select() as selection:
        await world.get(selection, "eviction", 2, at_once=True)
    assert world.closed == ["eviction"]
    await world.pools.aclose()


async def test_a_configuration_that_cannot_be_opened_changes_nothing() -> None:
    world = World()
    async with world.pools.select() as selection:
        first = await world.get(selection, "first", 1)

    async def fail() -> None:
        async with world.pools.select() as selection:
            await world.get(selection, "first", 2)
            await world.get(selection, "second")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert world.closed == ["second", "first"]
    async with world.pools.select() as selection:
        assert await world.get(selection, "first", 1) is first
    await world.pools.aclose()


async def test_what_fails_to_open_is_closed_as_far_as_it_was_opened() -> None:
    closed: list[str] = []

    async def open_(resources: object) -> None:
        resources.callback(closed.append, "half")  # type: ignore[attr-defined]
        raise RuntimeError

    pools = Pools()
    with pytest.raises(RuntimeError):
        async with pools.select() as selection:
            await selection.get("thing", (), open_)
    assert closed == ["half"]


async def test_the_end_of_a_process_waits_for_nothing() -> None:
    world = World()
    async with world.pools.select() as selection:
        await world.get(selection, "before")
    async with world.pools.select() as selection:
        await world.get(selection, "now")
    async with asyncio.timeout(30):
        await world.pools.aclose()
    assert sorted(world.closed) == ["before", "now"]


async def test_a_task_runs_until_it_is_not_selected_any_more() -> None:
    pools = Pools()
    async with pools.select() as selection:
        task = await selection.get("task", (), running(asyncio.Event().wait), closes_at_once=True)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert not task.done()
    async with pools.select():
        pass
    assert task.cancelled()
