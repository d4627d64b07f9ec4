"""Where copies of a bucket's files are."""

import asyncio
from pathlib import Path

from s3_double import S3Double

from harmonia_py.config.settings import Config
from harmonia_py.config.storage_tables import KeptNars, Storage
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.hot import HotBlobs
from harmonia_py.wiring.bucket import hot_settings


async def test_copies_in_a_directory_of_kept_files_drive_none_of_those_out(tmp_path: Path) -> None:
    """`hot_directory` named the directory of `[cache]`: kept files counted as copies, and went for others."""
    storage = Storage(url="s3://nix-cache", hot_max_size=1_000_000, hot_directory=str(tmp_path))
    settings = hot_settings(Config(cache=KeptNars(directory=str(tmp_path), min_free=0), storage=storage))
    assert settings is not None
    keys = [BlobKey(name) for name in ("kept.nar.zst", "nar/kept.nar.zst")]
    async with DiskBlobs(tmp_path) as kept:
        for key in keys:
            await kept.put(key, bytes(2_000_000), {})
        with S3Double() as double:
            async with HotBlobs(S3Blobs(double.settings()), settings) as hot:
                evicted = await asyncio.to_thread(hot._copies.make_room, 250_000)
                assert evicted == 0
        assert [await kept.metadata(key) for key in keys] == [{}, {}]
        assert {info.key async for info in kept.list()} == set(keys)
