"""How long things are right, and how that is found out."""

import time
from dataclasses import dataclass
from math import inf

import pytest

from harmonia_py.cache.validity import ChangeDetector, Epoch, Validity, together
from harmonia_py.errors import StorageError


@dataclass
class World:
    """Something that changes, and a clock; the changes happened long ago."""

    modified: int = 1
    now: float = 1000.0
    looks: int = 0
    fails: bool = False

    async def look(self) -> int:
        self.looks += 1
        if self.fails:
            raise StorageError("no")
        return self.modified

    def detector(self) -> ChangeDetector:
        return ChangeDetector(self.look, seconds=1.0, clock=lambda: self.now)


def test_what_has_expired_does_not_hold() -> None:
    validity = Validity(10.0, (Epoch(inf),))
    assert validity.holds(9.9)
    assert not validity.holds(10.0)


def test_what_has_to_be_looked_at_again_does_not_hold() -> None:
    epoch = Epoch(5.0)
    validity = Validity(10.0, (Epoch(inf), epoch))
    assert not validity.holds(5.0)
    epoch.until = 6.0
    assert validity.holds(5.0)


def test_what_is_made_of_several_lasts_as_long_as_all_of_them() -> None:
    one, other = Epoch(inf), Epoch(7.0)
    both = together(Validity(10.0, (one,)), Validity(9.0, (other,)))
    assert both == Validity(9.0, (one, other))
    assert both is not None
    assert not both.holds(7.0)


def test_nobody_knows_how_long_something_lasts_when_one_does_not_know() -> None:
    assert together(Validity(10.0, ()), None) is None
    assert together() is None


async def test_what_has_not_changed_stands_and_is_looked_at_once_a_second() -> None:
    world = World()
    changes = world.detector()
    first = await changes.epoch()
    world.now += 0.9
    assert await changes.epoch() is first
    assert world.looks == 1
    world.now += 0.1
    assert first.until <= world.now
    assert await changes.epoch() is first
    assert world.looks == 2
    assert first.until == world.now + 1.0


async def test_what_has_changed_stands_no_more() -> None:
    world = World()
    changes = world.detector()
    first = await changes.epoch()
    world.now += 1.0
    world.modified = 2
    second = await changes.epoch()
    assert second is not first
    assert first.until <= world.now < second.until


async def test_what_has_become_what_it_was_before_does_not_stand_again() -> None:
    """A look that took long may say what was true before another look."""
    world = World()
    changes = world.detector()
    first = await changes.epoch()
    for modified in (2, 1):
        world.now += 1.0
        world.modified = modified
        assert await changes.epoch() is not first
    assert first.until <= world.now


async def test_of_a_change_just_now_nobody_can_tell_whether_it_was_the_last() -> None:
    world = World(modified=time.time_ns())
    changes = world.detector()
    first = await changes.epoch()
    world.now += 1.0
    assert await changes.epoch() is not first


async def test_somebody_who_knows_of_a_change_can_have_it_looked_at_at_once() -> None:
    world = World()
    changes = world.detector()
    first = await changes.epoch()
    changes.look_again()
    assert first.until <= world.now
    world.modified = 2
    assert await changes.epoch() is not first


async def test_where_nobody_can_look_nothing_stands_for_longer() -> None:
    world = World()
    changes = world.detector()
    first = await changes.epoch()
    world.now += 1.0
    world.fails = True
    with pytest.raises(StorageError):
        await changes.epoch()
    assert first.until <= world.now
