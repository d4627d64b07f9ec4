"""What one worker opens with a catalog, and that it opens nothing where nothing needs one."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from catalogs import nar_file
from waiting import eventually

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.audit import entry_now
from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheRow, CacheSettings, Timestamp
from harmonia_py.catalog.key_encryption import new_row
from harmonia_py.catalog.keys import KeyRow, KeyState
from harmonia_py.config.cache_table import Cache
from harmonia_py.config.settings import Config
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.signing import SecretKey
from harmonia_py.wiring.catalog import catalog_file, open_catalog, pushed_directory
from harmonia_py.wiring.node import Node
from harmonia_py.wiring.pools import Pools
from harmonia_py.wiring.store_choice import StoreChoice, Way
from harmonia_py.wiring.worker_catalog import WorkerCatalog

NOW = Timestamp(1_700_000_000)
DAY = 86_400


def config(directory: Path, **settings: Any) -> Config:
    return Config(state_directory=str(directory), **settings)


async def open_and_close(config: Config, *, housekeeping: bool = True) -> None:
    opened = WorkerCatalog(Metrics.alone(), housekeeping=housekeeping)
    try:
        async with opened.opening(config):
            await opened.declare(config)
    finally:
        await opened.aclose()


async def declared(config: Config) -> dict[str, tuple[bool, CacheSettings]]:
    catalog = await open_catalog(config)
    try:
        rows = await catalog.caches.page(None, 100)
        return {row.name: (row.declared, row.settings) for row in rows if row.name != "default"}
    finally:
        await catalog.aclose()


async def test_a_server_that_needs_no_catalog_makes_none(tmp_path: Path) -> None:
    await open_and_close(config(tmp_path))
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # nothing else runs here


def test_a_server_that_needs_no_catalog_loads_nothing_of_one() -> None:
    program = """if True:
        import sys
        import harmonia_py.server.worker
        heavy = ("harmonia_py.database", "harmonia_py.push", "harmonia_py.wiring.pushing")
        loaded = [name for name in sys.modules if name.startswith(heavy)]
        assert loaded == [], loaded
    """
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_what_the_file_declares_is_in_the_catalog_as_long_as_it_does(tmp_path: Path) -> None:
    first = config(tmp_path, caches={"team": Cache(public=True), "gone": Cache()})
    await open_and_close(first)
    assert await declared(first) == {"team": (True, Cache(public=True).settings), "gone": (True, Cache().settings)}
    second = config(tmp_path, caches={"team": Cache(priority=10)})
    await open_and_close(second)
    after = await declared(second)
    assert after["team"] == (True, Cache(priority=10).settings)
    assert after["gone"] == (False, Cache().settings), "what was pushed to it stays, and commands may change it now"


async def test_a_cache_that_a_command_made_becomes_the_files_when_that_declares_it(tmp_path: Path) -> None:
    settings = config(tmp_path, caches={"team": Cache(public=True)})
    catalog = await open_catalog(settings)
    made = await catalog.caches.create(CacheName("team"), CacheSettings(), declared=False, now=NOW)
    await catalog.aclose()
    await open_and_close(settings)
    catalog = await open_catalog(settings)
    row = await catalog.caches.find(CacheName("team"))
    await catalog.aclose()
    assert row is not None
    assert (row.id, row.declared, row.settings.public) == (made.id, True, True)


async def test_one_worker_of_all_declares(tmp_path: Path) -> None:
    settings = config(tmp_path, caches={"team": Cache()})
    await open_and_close(settings, housekeeping=False)
    assert await declared(settings) == {}


async def test_the_worker_that_does_the_housekeeping_sweeps_from_the_start(tmp_path: Path) -> None:
    """Nothing looked after what was pushed: a file whose push had died stayed for ever."""
    settings, file = config(tmp_path), nar_file("dead")
    catalog = await open_catalog(settings)
    await catalog.uploads.expect(DEFAULT_CACHE, "dead", file.file_hash, file.blob_key, now=NOW)
    await catalog.uploads.received(DEFAULT_CACHE, "dead", file, now=NOW)
    await catalog.aclose()
    place = pushed_directory(settings) / file.blob_key
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    opened = WorkerCatalog(Metrics.alone(), housekeeping=True)
    try:
        async with opened.opening(settings):
            await asyncio.sleep(0.2)
            assert place.exists(), "not before all is open"
        await eventually(lambda: not place.exists(), "the file is swept")
    finally:
        await opened.aclose()


async def test_no_other_user_reads_the_catalog(tmp_path: Path) -> None:
    settings = config(tmp_path / "state", caches={"team": Cache()})
    await open_and_close(settings)
    file = catalog_file(settings)
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0


async def test_a_key_that_was_rotated_signs_until_its_time_and_no_longer(tmp_path: Path) -> None:
    """The end of an overlap is a moment at which no command runs: a worker that remembers the cache must see it."""
    settings = config(tmp_path, caches={"team": Cache(public=True)}, compression="none")
    clock = [float(NOW)]
    opened = WorkerCatalog(Metrics.alone(), housekeeping=True, clock=lambda: clock[0])
    pools = Pools()
    try:
        choice = StoreChoice(Way.NONE, "no store")
        async with opened.opening(settings):
            node = await Node.open(settings, [], choice, pools, metrics=Metrics.alone(), housekeeping=True)
            await opened.declare(settings)
        caches = opened.caches(node, settings)
        catalog = await open_catalog(settings)
        row = await catalog.caches.find(CacheName("team"))
        assert row is not None
        await catalog.keys.add(key_row(row, "team-1", NOW), entry_now("tests", "key.create"))
        rotated = entry_now("tests", "key.rotate")
        await catalog.keys.add(key_row(row, "team-2", later(1)), rotated, retire_others=later(30 * DAY))

        async def signers() -> list[str]:
            if opened.generation.cells[0] != seen[0]:  # as a worker does before it answers a request
                seen[0] = opened.generation.cells[0]
                caches.forget()
            team = await caches.find(CacheName("team"))
            assert team is not None
            return [key.name for key in team.cache.public_keys]

        seen = [0]
        assert await signers() == ["team-1", "team-2"]
        clock[0] = NOW + 30 * DAY - 1
        await opened.end_overlaps()
        before = opened.generation.cells[0]
        assert await signers() == ["team-1", "team-2"]
        await opened.end_overlaps()
        assert opened.generation.cells[0] == before, "looking costs the workers nothing"
        clock[0] = NOW + 30 * DAY
        await opened.end_overlaps()
        assert await signers() == ["team-2"]
        states = {key.name: (key.state, key.until) for key in await catalog.keys.of(row.id)}
        await catalog.aclose()
        assert states == {"team-1": (KeyState.RETIRED, later(30 * DAY)), "team-2": (KeyState.ACTIVE, None)}
    finally:
        await opened.aclose()
        await pools.aclose()


async def cannot_be_opened() -> None:
    raise StorageError("the store of this configuration cannot be opened")


async def test_a_catalog_that_was_opened_for_what_cannot_be_opened_is_closed_again(tmp_path: Path) -> None:
    """It stayed open and was not served: the server looked no further for a catalog that a command had made."""
    settings = config(tmp_path, caches={"team": Cache()})
    opened = WorkerCatalog(Metrics.alone(), housekeeping=True)
    before = opened.generation
    try:
        with suppress(StorageError):
            async with opened.opening(settings):
                assert opened.ports is not None
                await cannot_be_opened()
        assert opened.ports is None
        assert opened.generation is before
        async with opened.opening(settings):
            await opened.declare(settings)
        assert set(await declared(settings)) == {"team"}
    finally:
        await opened.aclose()


def later(seconds: int) -> Timestamp:
    return Timestamp(NOW + seconds)


def key_row(cache: CacheRow, name: str, created: Timestamp) -> KeyRow:
    return new_row(cache, SecretKey.generate(name), None, now=created)
