import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from lab import Lab
from peer import LAST, Peer, hang, refusal, then, then_hang
from waiting import eventually

from harmonia_py.errors import DaemonProtocolError, DaemonRefused, DaemonUnreachable
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.nix.wire import write_string, write_u64
from harmonia_py.store.daemon import temp_roots
from harmonia_py.store.daemon.temp_roots import TempRoots

STORE_DIR = StoreDir.parse("/nix/store")
PATH = StorePath.parse("7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-hello-2.12")
ADDED = LAST + write_u64(1)
VALID = LAST + write_string(STORE_DIR.join(PATH))
GONE = LAST + write_string("")


@pytest.fixture
async def roots(daemon: Lab) -> AsyncIterator[TempRoots]:
    roots = TempRoots(daemon.socket, daemon.store_dir)
    yield roots
    await roots.aclose()


async def held(roots: TempRoots, store_path: StorePath) -> Callable[[], None]:
    release = await roots.acquire(store_path)
    assert release is not None
    return release


# What the garbage collector does


async def test_a_held_path_and_its_closure_survive_the_collector(daemon: Lab, roots: TempRoots) -> None:
    closure = daemon.closure
    release = await held(roots, closure.top)
    daemon.nix_store("--gc")
    assert all(map(daemon.is_valid, [closure.top, closure.input2, closure.input0]))
    assert not daemon.is_valid(closure.input1)
    assert daemon.run("nix-store", "--delete", daemon.full(closure.top), check=False).returncode != 0
    assert daemon.is_valid(closure.top)
    release()


async def test_after_the_release_and_the_end_of_its_generation_it_is_collected(
    daemon: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temp_roots, "_MAX_AGE", 0.1)
    roots = TempRoots(daemon.socket, daemon.store_dir)
    release = await held(roots, daemon.closure.top)
    release()
    await eventually(lambda: not daemon.connections())
    daemon.nix_store("--gc")
    assert not daemon.is_valid(daemon.closure.top)
    await roots.aclose()


async def test_a_path_stays_rooted_as_long_as_it_is_held_however_old_its_generation(
    daemon: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temp_roots, "_MAX_AGE", 0.05)
    roots = TempRoots(daemon.socket, daemon.store_dir)
    release = await held(roots, daemon.closure.top)
    await eventually(lambda: roots._current is None)
    daemon.nix_store("--gc")
    assert daemon.is_valid(daemon.closure.top)
    release()
    await eventually(lambda: not daemon.connections())
    daemon.nix_store("--gc")
    assert not daemon.is_valid(daemon.closure.top)
    await roots.aclose()


async def test_a_path_that_is_gone_is_none(daemon: Lab, roots: TempRoots) -> None:
    daemon.delete(daemon.closure.top)
    assert await roots.acquire(daemon.closure.top) is None
    daemon.build()
    release = await held(roots, daemon.closure.top)
    daemon.nix_store("--gc")
    assert daemon.is_valid(daemon.closure.top)
    release()


async def test_another_name_with_the_same_hash_part_is_not_valid(daemon: Lab, roots: TempRoots) -> None:
    other = StorePath.parse(f"{daemon.closure.top.hash_part}-other")
    assert await roots.acquire(other) is None


# How many connections there are, and when they end


async def test_the_same_path_is_asked_for_once_per_generation(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang(ADDED, VALID)) as peer:
        roots = TempRoots(peer.path, STORE_DIR)
        releases = await asyncio.gather(*[held(roots, PATH) for _ in range(20)])
        releases.append(await held(roots, PATH))
        for release in releases:
            release()
        assert peer.connections == 1
        await roots.aclose()
        await peer.all_hung_up()


async def test_releasing_twice_is_releasing_once(daemon: Lab, roots: TempRoots) -> None:
    first = await held(roots, daemon.closure.top)
    second = await held(roots, daemon.closure.top)
    first()
    first()
    roots._retire(next(iter(roots._generations)))
    assert len(roots._generations) == 1
    second()
    assert not roots._generations


async def test_a_generation_takes_only_so_many_paths(daemon: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_roots, "_MAX_PATHS", 1)
    roots = TempRoots(daemon.socket, daemon.store_dir)
    closure = daemon.closure
    releases = [await held(roots, path) for path in (closure.top, closure.input0, closure.input2)]
    assert len(daemon.connections()) == len(roots._generations) == 3
    for release in releases:
        release()
    await eventually(lambda: len(daemon.connections()) <= 1)
    await roots.aclose()
    await eventually(lambda: not daemon.connections())


async def test_there_are_never_more_generations_than_allowed(daemon: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temp_roots, "_MAX_PATHS", 1)
    monkeypatch.setattr(temp_roots, "_MAX_GENERATIONS", 2)
    monkeypatch.setattr(temp_roots, "_MAX_AGE", 0.02)
    roots = TempRoots(daemon.socket, daemon.store_dir)
    closure = daemon.closure
    paths = (closure.top, closure.input0, closure.input1, closure.input2, closure.derivation)
    releases = [await held(roots, path) for path in paths]
    assert len(daemon.connections()) == len(roots._generations) == 2
    daemon.nix_store("--gc")
    assert all(map(daemon.is_valid, paths))
    for release in releases:
        release()
    await eventually(lambda: not daemon.connections())
    await roots.aclose()


# Faults


async def test_after_a_restart_of_the_daemon_new_leases_protect_and_the_loss_is_logged_once(
    daemon: Lab, roots: TempRoots, caplog: pytest.LogCaptureFixture
) -> None:
    lost = [await held(roots, daemon.closure.top), await held(roots, daemon.closure.input0)]
    with caplog.at_level(logging.WARNING):
        daemon.stop_daemon()
        await eventually(lambda: not roots._generations)
    assert [
        record.getMessage() for record in caplog.records if record.name == "harmonia_py.store.daemon.temp_roots"
    ] == ["a connection to the nix-daemon ended: 2 downloads are not protected from garbage collection any more"]
    daemon.start_daemon()
    release = await held(roots, daemon.closure.top)
    for release_lost in lost:
        release_lost()
    daemon.nix_store("--gc")
    assert daemon.is_valid(daemon.closure.top)
    release()


async def test_a_restart_that_nobody_has_noticed_yet_is_not_an_error(daemon: Lab, roots: TempRoots) -> None:
    (await held(roots, daemon.closure.top))()
    daemon.stop_daemon()
    daemon.start_daemon()
    (await held(roots, daemon.closure.input0))()


async def test_without_a_daemon_nothing_can_be_protected(tmp_path: Path) -> None:
    roots = TempRoots(tmp_path / "missing", STORE_DIR)
    for _ in range(2):
        with pytest.raises(DaemonUnreachable):
            await roots.acquire(PATH)
    assert not roots._generations
    await roots.aclose()


async def test_a_daemon_that_hangs_costs_every_waiter_only_the_time_limit(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang()) as peer:
        roots = TempRoots(peer.path, STORE_DIR, request_timeout=0.05)
        results = await asyncio.gather(*[roots.acquire(PATH) for _ in range(20)], return_exceptions=True)
        assert all(isinstance(result, DaemonUnreachable) for result in results)
        await roots.aclose()
        await peer.all_hung_up()


async def test_garbage_is_an_error_and_ends_the_generation(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang(b"garbage!")) as peer:
        roots = TempRoots(peer.path, STORE_DIR)
        with pytest.raises(DaemonProtocolError):
            await roots.acquire(PATH)
        assert not roots._generations
        await roots.aclose()
        await peer.all_hung_up()


async def test_a_refusal_keeps_what_the_generation_protects(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang(ADDED, VALID, refusal("no"))) as peer:
        roots = TempRoots(peer.path, STORE_DIR)
        release = await held(roots, PATH)
        with pytest.raises(DaemonRefused):
            await roots.acquire(StorePath.parse(PATH + "-doc"))
        assert len(roots._generations) == 1
        release()
        await roots.aclose()
        await peer.all_hung_up()


async def test_a_client_that_leaves_while_a_root_is_added_does_not_harm_the_others(tmp_path: Path) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await then()(reader, writer)
        await reader.read(65536)
        asked.set()
        await answer.wait()
        writer.write(ADDED)
        await reader.read(65536)
        writer.write(VALID)
        await hang(reader, writer)

    async with Peer(tmp_path / "socket", talk) as peer:
        roots = TempRoots(peer.path, STORE_DIR)
        leaves, stays = (asyncio.create_task(roots.acquire(PATH)) for _ in range(2))
        await asked.wait()
        leaves.cancel()
        answer.set()
        release = await stays
        assert release is not None
        assert leaves.cancelled()
        assert [generation.leases for generation in roots._generations] == [1]
        release()
        await roots.aclose()
        await peer.all_hung_up()


async def test_a_thousand_clients_that_leave_hold_nothing(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang(*[ADDED, GONE] * 2000)) as peer:
        roots = TempRoots(peer.path, STORE_DIR)
        for turn in range(1000):
            task = asyncio.create_task(roots.acquire(PATH))
            for _ in range(turn % 20):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert [generation.leases for generation in roots._generations] == [0]
        assert peer.connections == 1
        await roots.aclose()
        assert not roots._generations
        await peer.all_hung_up()


async def test_closing_ends_protections_and_those_under_way(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await then()(reader, writer)
        await reader.read(65536)
        asked.set()
        await hang(reader, writer)

    async with Peer(tmp_path / "socket", talk) as peer:
        roots = TempRoots(peer.path, STORE_DIR)
        waiting = asyncio.create_task(roots.acquire(PATH))
        await asked.wait()
        await roots.aclose()
        with pytest.raises(DaemonUnreachable):
            await waiting
        with pytest.raises(DaemonUnreachable, match="closed"):
            await roots.acquire(PATH)
        await peer.all_hung_up()
