"""What looks after a directory of kept files, across reloads of the configuration."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from catalogs import path_info
from msgspec.structs import replace
from s3_double import S3Double
from waiting import eventually

from harmonia_py.catalog import replaceable_housekeeping
from harmonia_py.catalog.quota import Limits
from harmonia_py.catalog.rooms import Rooms
from harmonia_py.contents.kept_files import UNKNOWN, FileFacts, key_of
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.storage.s3.hot import HotSettings
from harmonia_py.wiring import pools as pools_module
from harmonia_py.wiring.bucket import BucketPlace
from harmonia_py.wiring.kept_directory import CATALOG, KeptDirectory, open_kept_directory
from harmonia_py.wiring.pools import Pools
from harmonia_py.wiring.replaceable_housekeeping import Upkeep

_SIZE = 100


@pytest.fixture
async def pools(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pools]:
    monkeypatch.setattr(pools_module, "_ANSWER_SECONDS", 0.0)
    pools = Pools()
    yield pools
    await pools.aclose()


class World:
    """One process that keeps files in a bucket, with copies in front of it."""

    def __init__(self, pools: Pools, double: S3Double, directory: Path, limits: Limits) -> None:
        self.rooms = Rooms(seconds=0.01)
        self._pools = pools
        self._place = BucketPlace(double.settings(), HotSettings(directory / "hot", 10**6, 0))
        self._directory = directory
        self._limits = limits
        self._double = double

    async def load(self, *, min_free: int = 0) -> KeptDirectory:
        """What a configuration keeps; another `min_free` of the copies opens the files anew."""
        assert self._place.hot is not None
        async with self._pools.select() as selection:
            return await open_kept_directory(
                selection,
                "cache.directory",
                self._directory,
                place=replace(self._place, hot=replace(self._place.hot, min_free=min_free)),
                metrics=Metrics.alone(),
                upkeep=Upkeep(limits=self._limits, store_dir=StoreDir("/nix/store"), rooms=self.rooms),
            )

    async def keep(self, kept_directory: KeptDirectory, name: str) -> None:
        info = path_info(name)
        key = key_of(NarUrl(info.store_path.hash_part, info.nar_hash, "zstd"))
        data = name.encode().ljust(_SIZE)
        await kept_directory.intake.storage.ask(lambda _, blobs: blobs.put(key, data, {}))
        await kept_directory.kept.keep(key, info, FileFacts(Hash.of(data), len(data)))

    def files(self) -> int:
        return sum(key.endswith(".nar.zst") for key in list(self._double.objects))


async def reloaded(world: World, pools: Pools) -> KeptDirectory:
    """What is kept by a configuration under which the files were opened anew, once those of before are closed."""
    await world.load()
    kept_directory = await world.load(min_free=1)
    await eventually(lambda: not pools._left)  # nothing else tells
    return kept_directory


async def test_a_directory_is_held_to_its_limits_also_after_its_files_were_opened_anew(
    tmp_path: Path, double: S3Double, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eviction went on with the files of before a reload, which were closed, and ended by a RuntimeError."""
    monkeypatch.setattr(replaceable_housekeeping, "CHECK_SECONDS", 0.01)
    world = World(pools, double, tmp_path, Limits(max_size=2 * _SIZE))
    kept_directory = await reloaded(world, pools)
    for name in ("one", "two", "three", "four"):
        await world.keep(kept_directory, name)
    await eventually(lambda: 1 <= world.files() <= 2)


async def test_all_that_is_kept_is_held_to_its_limits_also_after_files_were_opened_anew(
    tmp_path: Path, double: S3Double, pools: Pools
) -> None:
    """The room of before a reload stayed, and with it the files that were closed."""
    world = World(pools, double, tmp_path, Limits())
    kept_directory = await reloaded(world, pools)
    for name in ("one", "two", "three", "four"):
        await world.keep(kept_directory, name)
    world.rooms.limits = Limits(max_size=2 * _SIZE)
    looking = asyncio.create_task(world.rooms.run())
    await eventually(lambda: 1 <= world.files() <= 2)
    looking.cancel()


async def plain(pools: Pools, directory: Path) -> KeptDirectory:
    """A kept directory, without a bucket."""
    async with pools.select() as selection:
        return await open_kept_directory(
            selection,
            "cache.directory",
            directory,
            metrics=Metrics.alone(),
            upkeep=Upkeep(limits=Limits(), store_dir=StoreDir("/nix/store")),
        )


async def test_a_directory_that_cannot_be_used_keeps_nothing_and_says_so(
    tmp_path: Path, pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    kept_directory = await plain(pools, tmp_path / "file" / "kept")
    assert kept_directory.intake.storage.blobs is None
    assert "each download is made anew" in caplog.text
    assert (
        await kept_directory.kept.find(key_of(NarUrl(path_info("one").store_path.hash_part, None, "zstd"))) is UNKNOWN
    )


async def test_files_are_kept_without_a_catalog_that_is_damaged(
    tmp_path: Path, pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / CATALOG
    file.parent.mkdir()
    file.write_bytes(b"no database" * 1000)
    kept_directory = await plain(pools, tmp_path)
    assert "what is kept is served, and nothing is known of it" in caplog.text
    key = key_of(NarUrl(path_info("one").store_path.hash_part, Hash.of(b"nar"), "zstd"))
    await kept_directory.intake.storage.ask(lambda _, blobs: blobs.put(key, b"bytes", {}))
    assert await kept_directory.kept.has(key)
    assert await kept_directory.kept.find(key) is UNKNOWN
