"""What is noted beside a file: whole or not at all, and never the last time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Never

import pytest
from serving import eventually

from harmonia_py.cache.blobs import BlobKey, BlobStore
from harmonia_py.cache.kept import KeptFiles, NotKept
from harmonia_py.errors import StorageError
from harmonia_py.storage.disk import DiskBlobs

KEY = BlobKey("0" * 32 + ".narinfo")


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[DiskBlobs]:
    async with DiskBlobs(tmp_path) as blobs:
        yield blobs


async def test_a_fact_that_was_given_up_can_be_noted_later(blobs: DiskBlobs, tmp_path: Path) -> None:
    """A reload cancelled it before a thread had begun, and the file stayed locked as long as its process lived."""
    kept, gate = KeptFiles(blobs), threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, gate.wait)
    noting = asyncio.create_task(kept.note(KEY, {"a": "first"}))
    await eventually(lambda: list((tmp_path / "growing").iterdir()))
    noting.cancel()
    await asyncio.wait([noting])
    gate.set()
    await busy
    await loop.run_in_executor(None, int)
    await kept.note(KEY, {"a": "second"})
    assert await kept.metadata(KEY) == {"a": "second"}


async def test_a_disk_that_fails_for_another_file_costs_none_its_place(blobs: DiskBlobs) -> None:
    kept = KeptFiles(blobs)

    async def fail(_: BlobStore) -> Never:
        raise StorageError("of another file")

    async def fail_meanwhile() -> None:
        with pytest.raises(NotKept):
            await kept._ask(fail)

    await asyncio.gather(kept.note(KEY, {"a": "first"}), fail_meanwhile())
    kept._rests_until = 0.0
    await kept.note(KEY, {"a": "second"})
    assert await kept.metadata(KEY) == {"a": "second"}
