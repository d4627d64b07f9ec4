"""Path infos are remembered while nothing leaves the store, and never longer than that."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.errors import DaemonUnreachable, StorageError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.daemon import known_paths
from harmonia_py.store.daemon.known_paths import KnownPaths
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.sqlite import SqliteStore


@dataclass
class Counting:
    """The real metadata, with a note of every question."""

    inner: StoreMetadata
    asked: list[HashPart] = field(default_factory=list)

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        self.asked.append(hash_part)
        return await self.inner.path_info(hash_part)

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        return await self.inner.realisation(output)

    async def all_paths(self) -> Sequence[StorePath]:
        return await self.inner.all_paths()

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        return await self.inner.referrers(store_path)

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass
class World:
    lab: Lab
    metadata: Counting
    known: KnownPaths
    now: float = 1000.0

    async def ask(self, store_path: StorePath) -> PathInfo | None:
        return await self.known.path_info(store_path.hash_part)


@asynccontextmanager
async def opened(lab: Lab) -> AsyncIterator[World]:
    # As a store is in which nothing has happened for a while: nothing is remembered across a change just now.
    os.utime(lab.real_store, (1, 1))
    metadata = Counting(DaemonStore(lab.socket, lab.store_dir))
    with Threads(Pool.KNOWN) as threads:
        world = World(lab, metadata, KnownPaths(metadata, str(lab.real_store), threads, clock=lambda: world.now))
        try:
            yield world
        finally:
            await metadata.aclose()


async def test_a_path_is_asked_for_once(daemon: Lab) -> None:
    assert daemon.closure is not None
    async with opened(daemon) as world:
        first = await world.ask(daemon.closure.top)
        world.now += known_paths.KNOWN_SECONDS / 2
        assert await world.ask(daemon.closure.top) == first
        assert first is not None
        assert len(world.metadata.asked) == 1


async def test_what_is_absent_is_asked_for_each_time(daemon: Lab) -> None:
    async with opened(daemon) as world:
        absent = HashPart.parse("0" * 32)
        assert await world.known.path_info(absent) is None
        assert await world.known.path_info(absent) is None
        assert len(world.metadata.asked) == 2


async def test_a_deleted_path_is_forgotten_within_a_second(daemon: Lab) -> None:
    async with opened(daemon) as world:
        path = daemon.add(Path(__file__))
        assert await world.ask(path) is not None
        await asyncio.to_thread(daemon.delete, path)
        world.now += known_paths.CHECK_SECONDS
        assert await world.ask(path) is None


async def test_signatures_added_later_are_seen_after_a_while(daemon: Lab) -> None:
    assert daemon.closure is not None
    async with opened(daemon) as world:
        before = await world.ask(daemon.closure.input0)
        keys = daemon.secret_key("late-1")
        full = daemon.full(daemon.closure.input0)
        await asyncio.to_thread(daemon.nix, "store", "sign", "--key-file", str(keys.secret_file), full)
        world.now += known_paths.KNOWN_SECONDS
        after = await world.ask(daemon.closure.input0)
        assert before is not None
        assert after is not None
        assert {one.key_name for one in after.signatures} - {one.key_name for one in before.signatures} == {"late-1"}


async def test_the_memory_has_a_bound(daemon: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert daemon.closure is not None
    monkeypatch.setattr(known_paths, "MAX_KNOWN", 2)
    async with opened(daemon) as world:
        for path in (daemon.closure.top, daemon.closure.input0, daemon.closure.input2, daemon.closure.top):
            assert await world.ask(path) is not None
        assert len(world.metadata.asked) == 4, "the first one should have been forgotten"


async def test_a_store_directory_that_is_gone_cannot_tell(daemon: Lab) -> None:
    assert daemon.closure is not None
    async with opened(daemon) as world:
        assert await world.ask(daemon.closure.top) is not None
        daemon.real_store.rename(daemon.real_store.with_name("elsewhere"))
        world.now += known_paths.CHECK_SECONDS
        with pytest.raises(StorageError):
            await world.ask(daemon.closure.top)
        daemon.real_store.with_name("elsewhere").rename(daemon.real_store)


async def test_a_daemon_that_cannot_tell_is_not_remembered(daemon: Lab) -> None:
    assert daemon.closure is not None
    async with opened(daemon) as world:
        daemon.stop_daemon()
        with pytest.raises(DaemonUnreachable):
            await world.ask(daemon.closure.top)
        daemon.start_daemon()
        assert await world.ask(daemon.closure.top) is not None


async def test_two_deletions_within_one_tick_of_the_kernels_clock_are_both_noticed(daemon: Lab) -> None:
    """The second left the same modification time as the first, so its path was known for another minute."""
    async with opened(daemon) as world:
        path = daemon.add(Path(__file__))
        tick = time.time_ns()
        os.utime(daemon.real_store, ns=(tick, tick))
        assert await world.ask(path) is not None
        await asyncio.to_thread(daemon.delete, path)
        os.utime(daemon.real_store, ns=(tick, tick))
        world.now += known_paths.CHECK_SECONDS
        assert await world.ask(path) is None


async def test_a_store_whose_clock_is_ahead_is_remembered_all_the_same(daemon: Lab) -> None:
    async with opened(daemon) as world:
        ahead = time.time_ns() + 3600 * 10**9
        os.utime(daemon.real_store, ns=(ahead, ahead))
        for _ in range(3):
            assert await world.ask(daemon.closure.top) is not None
            world.now += known_paths.CHECK_SECONDS
        assert len(world.metadata.asked) == 1


async def test_what_is_known_lasts_while_nothing_leaves_the_store(daemon: Lab) -> None:
    async with opened(daemon) as world:
        path = daemon.add(Path(__file__))
        os.utime(daemon.real_store, (1, 1))
        known = await world.known.find(path.hash_part)
        assert known is not None
        assert known.validity.holds(world.now + known_paths.CHECK_SECONDS * 0.9)
        assert not known.validity.holds(world.now + known_paths.CHECK_SECONDS)
        world.now += known_paths.CHECK_SECONDS
        await world.ask(path)
        assert known.validity.holds(world.now), "nothing has changed"
        await asyncio.to_thread(daemon.delete, path)
        world.now += known_paths.CHECK_SECONDS
        await world.ask(path)
        assert not known.validity.holds(world.now)
        assert await world.known.find(path.hash_part) is None


async def test_nothing_lasts_longer_than_signatures_may_go_unseen(daemon: Lab) -> None:
    assert daemon.closure is not None
    async with opened(daemon) as world:
        known = await world.known.find(daemon.closure.top.hash_part)
        assert known is not None
        assert known.validity.expires == world.now + known_paths.KNOWN_SECONDS


async def test_a_disk_that_answers_late_does_not_have_everything_asked_again(daemon: Lab) -> None:
    assert daemon.closure is not None
    async with opened(daemon) as world:
        path = daemon.closure.top
        await world.ask(path)

        async def late() -> None:
            world.now += known_paths.CHECK_SECONDS
            asking = asyncio.create_task(world.ask(path))
            await asyncio.sleep(0)  # it has looked at the clock, and waits for the disk
            world.now += 2 * known_paths.CHECK_SECONDS
            await asking

        await late()
        assert len(world.metadata.asked) == 1


@asynccontextmanager
async def opened_with_database(lab: Lab) -> AsyncIterator[World]:
    os.utime(lab.real_store, (1, 1))
    database = SqliteStore(lab.database, lab.store_dir)
    metadata = Counting(database)
    with Threads(Pool.KNOWN) as threads:
        known = KnownPaths(metadata, str(lab.real_store), threads, clock=lambda: world.now, ahead=database)
        world = World(lab, metadata, known)
        try:
            yield world
        finally:
            known.close()
            await metadata.aclose()


async def read_ahead(world: World) -> None:
    """Ask for the top of the closure, and wait until what it refers to has been read."""
    assert world.lab.closure is not None
    assert await world.ask(world.lab.closure.top) is not None
    assert world.known._ahead is not None
    assert world.known._ahead._reading is not None
    await world.known._ahead._reading
    world.metadata.asked.clear()


async def test_what_a_path_refers_to_is_known_before_it_is_asked_for(lab: Lab) -> None:
    assert lab.closure is not None
    async with opened_with_database(lab) as world:
        await read_ahead(world)
        found = await world.ask(lab.closure.input0)
        assert found is not None
        assert found == await world.metadata.inner.path_info(lab.closure.input0.hash_part)
        assert world.metadata.asked == []


async def test_what_was_read_ahead_is_asked_for_again_when_something_has_left_the_store(lab: Lab) -> None:
    assert lab.closure is not None
    async with opened_with_database(lab) as world:
        await read_ahead(world)
        os.utime(lab.real_store, (2, 2))
        world.now += known_paths.CHECK_SECONDS
        assert await world.ask(lab.closure.input0) is not None
        assert world.metadata.asked == [lab.closure.input0.hash_part]


async def test_a_path_of_which_nothing_is_there_is_not_known_ahead(lab: Lab) -> None:
    assert lab.closure is not None
    async with opened_with_database(lab) as world:
        lost = lab.closure.input0
        lab.real(lost).chmod(0o755)  # a user moves only what they may write to
        lab.real(lost).rename(lab.root / "elsewhere")
        try:
            await read_ahead(world)
            assert await world.ask(lost) is None
        finally:
            (lab.root / "elsewhere").rename(lab.real(lost))
