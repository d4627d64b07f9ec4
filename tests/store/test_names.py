"""What is not in a directory is known to be absent, and what comes is not, from that moment on."""

import asyncio
import errno
import math
import os
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from harmonia_py.cache.validity import Epoch
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store import names
from harmonia_py.store.inotify import NamesLost, NewNames
from harmonia_py.store.names import NameFilter, StoreNames

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"
# One hash part a number, spread as those of a store are: not at all, in the first characters.
MANY = 20_000
MOST_EVENTS = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


def hash_part(number: int) -> HashPart:
    return HashPart.parse("".join(ALPHABET[number >> 5 * place & 31] for place in range(32)))


@dataclass
class World:
    directory: Path
    names: StoreNames
    epoch: Epoch
    looks: list[str]

    def make(self, number: int, where: Path | None = None) -> None:
        ((where or self.directory) / f"{hash_part(number)}-name").touch()

    def lacks(self, number: int) -> bool:
        return self.names.lacks(hash_part(number).encode())

    async def look(self) -> None:
        """Go by a new epoch, and wait until the names are known again."""
        self.epoch = Epoch(math.inf)
        self.names.follow(self.epoch)
        await self.known()

    async def known(self) -> None:
        await eventually(lambda: self.names.lacks(hash_part(-1 % 2**100).encode()), "the names are known")


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    looks: list[str] = []
    look = names._names_in

    def counted(directory: str) -> NameFilter:
        looks.append(directory)
        return look(directory)

    monkeypatch.setattr(names, "_names_in", counted)
    monkeypatch.setattr(names, "_SHARE", math.inf)
    directory = tmp_path / "store"
    directory.mkdir()
    with Threads(Pool.KNOWN) as threads:
        world = World(directory, StoreNames(str(directory), threads), Epoch(0.0), looks)
        world.make(1)
        yield world
        world.names.close()


async def test_nothing_is_known_before_the_first_look(world: World) -> None:
    assert not world.lacks(2)


async def test_what_is_not_there_is_known_to_be_absent(world: World) -> None:
    await world.look()
    assert world.lacks(2)
    assert not world.lacks(1)


async def test_what_comes_is_not_absent_from_that_moment_on(world: World, tmp_path: Path) -> None:
    await world.look()
    world.make(2)
    assert not world.lacks(2)
    world.make(3, tmp_path)
    (tmp_path / f"{hash_part(3)}-name").rename(world.directory / f"{hash_part(3)}-name")
    assert not world.lacks(3)
    assert world.lacks(4)
    assert len(world.looks) == 1


async def test_nothing_is_known_when_the_epoch_is_over(world: World) -> None:
    await world.look()
    world.epoch.until = monotonic() - 1
    assert not world.lacks(2)


async def test_a_change_that_the_kernel_tells_of_needs_no_other_look(world: World) -> None:
    await world.look()
    world.make(2)
    await world.look()
    assert world.lacks(3)
    assert len(world.looks) == 1


async def test_a_change_that_the_kernel_does_not_tell_of_makes_it_look_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As below an overlay, and on network file systems: there the directory's time alone tells."""
    monkeypatch.setattr(names, "NewNames", lambda _: NewNames(str(tmp_path)))
    monkeypatch.setattr(names, "_TELLS_SECONDS", 0.0)
    await world.look()
    world.make(2)
    await world.look()
    assert not world.lacks(2)
    assert len(world.looks) == 2


async def test_more_names_than_it_is_made_for_make_it_look_again(world: World) -> None:
    await world.look()
    for number in range(2, 5000):
        world.make(number)
    assert not world.lacks(10_000), "too many names"
    await world.look()
    assert len(world.looks) == 2
    assert not any(world.lacks(number) for number in range(1, 5000))


async def test_more_names_at_once_than_the_kernel_tells_of_make_it_look_again(world: World) -> None:
    await world.look()
    for number in range(2, MOST_EVENTS + 100):
        world.make(number)
    assert not world.lacks(MOST_EVENTS + 1000)
    await world.look()
    assert not any(world.lacks(number) for number in range(1, MOST_EVENTS + 100))


async def test_a_directory_that_is_deleted_is_not_believed(world: World) -> None:
    await world.look()
    (world.directory / f"{hash_part(1)}-name").unlink()
    world.directory.rmdir()
    assert not world.lacks(2)


async def test_a_directory_that_cannot_be_read_is_asked_for_no_names(tmp_path: Path) -> None:
    with Threads(Pool.KNOWN) as threads:
        nowhere = StoreNames(str(tmp_path / "nowhere"), threads)
        nowhere.follow(Epoch(math.inf))
        await asyncio.sleep(0)
        await eventually(lambda: nowhere._looking is None, "it has given up")
        assert not nowhere.lacks(hash_part(1).encode())
        nowhere.close()


def test_the_kernel_tells_names_and_says_when_it_cannot(tmp_path: Path) -> None:
    told = NewNames(str(tmp_path))
    (tmp_path / "one").touch()
    (tmp_path / "a name of another length").mkdir()
    assert told.take() == [b"one", b"a name of another length"]
    assert told.take() == []
    (tmp_path / "one").unlink()
    (tmp_path / "a name of another length").rmdir()
    tmp_path.rmdir()
    with pytest.raises(NamesLost):
        told.take()
    told.close()
    with pytest.raises(OSError, match="No such file"):
        NewNames(str(tmp_path))


def test_nothing_stays_open_where_a_directory_cannot_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("select.epoll", out_of_descriptors)
    before = {entry.name for entry in Path("/proc/self/fd").iterdir()}
    with pytest.raises(OSError, match="Too many open files"):
        NewNames(str(tmp_path))
    assert {entry.name for entry in Path("/proc/self/fd").iterdir()} == before


@given(st.sets(st.binary(min_size=32, max_size=32), max_size=200))
def test_a_filter_never_lacks_what_was_added(added: set[bytes]) -> None:
    made = NameFilter(len(added))
    made.add(added)
    assert not any(made.lacks(one) for one in added)


def test_a_directory_of_more_names_than_are_taken_at_once_is_known_whole(tmp_path: Path) -> None:
    count = 2 * names._NAMES_AT_ONCE + 1
    for number in range(count):
        (tmp_path / f"{hash_part(number)}-x").touch()
    found = names._names_in(str(tmp_path))
    assert found.count == count
    assert not any(found.lacks(hash_part(number).encode()) for number in range(count))
    assert sum(found.lacks(hash_part(number).encode()) for number in range(count, 2 * count)) > count / 2


def test_a_look_takes_little_memory_which_would_stay_with_the_worker(tmp_path: Path) -> None:
    """Each worker kept 2.4 MB of what it had taken to look at the names of a store."""
    for number in range(5000):
        (tmp_path / f"{hash_part(number)}-name").touch()
    tracemalloc.start()
    try:
        names._names_in(str(tmp_path))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 512 * 1024


def test_a_full_filter_errs_for_less_than_one_in_fifty() -> None:
    made = NameFilter(MANY)
    made.add(hash_part(number).encode() for number in range(made.capacity))
    others = range(made.capacity, made.capacity + MANY)
    assert sum(not made.lacks(hash_part(number).encode()) for number in others) < MANY / 50
