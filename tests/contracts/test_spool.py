"""What every `Spool` promises, tried on each that there is."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blob_readers import read_all

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.spool import Spool
from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.storage.spool import DiskSpool

KEYS = [BlobKey.parse("a.nar.zst"), BlobKey.parse("nar/a.nar.zst"), BlobKey.parse(f"team/log/{'x' * 244}")]
KEY = KEYS[0]


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    async with DiskSpool(tmp_path) as spool:
        yield spool


@pytest.fixture(params=["the writer's process", "another process"])
async def other(request: pytest.FixtureRequest, spool: Spool, tmp_path: Path) -> AsyncIterator[Spool]:
    """Where the files that `spool` writes are read."""
    if request.param == "the writer's process":
        yield spool
        return
    async with DiskSpool(tmp_path) as other:
        yield other


async def test_what_was_never_begun_is_not_there(other: Spool) -> None:
    assert await other.follow(KEY) is None


@pytest.mark.parametrize("key", KEYS)
async def test_a_reader_follows_a_file_to_its_end(spool: Spool, other: Spool, key: BlobKey) -> None:
    writer = await spool.begin(key, 10)
    assert writer is not None
    await asyncio.to_thread(writer.write, b"12345")
    growing = await other.follow(key)
    assert growing is not None
    reading = asyncio.create_task(read_all(growing.pieces(0, None)))
    part = asyncio.create_task(read_all(growing.pieces(2, 7)))
    assert await growing.reaches_beyond(4)
    beyond = asyncio.create_task(growing.reaches_beyond(5))
    await asyncio.to_thread(writer.write, b"67890")
    assert await part == b"34567"
    assert await beyond
    closed = asyncio.create_task(growing.closed())
    file = await asyncio.to_thread(writer.finish)
    assert file.size == 10
    assert os.pread(file.fd, 100, 0) == b"1234567890"
    assert await reading == b"1234567890"
    assert await growing.reaches_beyond(100)  # nothing more comes, and nothing was given up
    assert not closed.done()
    await asyncio.to_thread(writer.close)
    await closed
    growing.release()
    assert await other.follow(key) is None


@pytest.mark.parametrize("written", [b"", b"12345"])
async def test_a_reader_is_cut_when_the_writer_gives_up(spool: Spool, other: Spool, written: bytes) -> None:
    writer = await spool.begin(KEY, 10)
    assert writer is not None
    await asyncio.to_thread(writer.write, written)
    growing = await other.follow(KEY)
    assert growing is not None
    reading = asyncio.create_task(read_all(growing.pieces(0, None)))
    beyond = asyncio.create_task(growing.reaches_beyond(5))
    closed = asyncio.create_task(growing.closed())
    await asyncio.to_thread(writer.close)
    with pytest.raises(StorageError):
        await reading
    assert not await beyond
    await closed
    growing.release()
    assert await other.follow(KEY) is None
    again = await spool.begin(KEY, 10)
    assert again is not None
    await asyncio.to_thread(again.close)


async def test_of_many_who_want_to_write_one_may(spool: Spool, other: Spool) -> None:
    begun = await asyncio.gather(*[one.begin(KEY, 1) for _ in range(10) for one in (spool, other)])
    (writer,) = [writer for writer in begun if writer is not None]
    assert await other.begin(KEY, 1) is None
    await asyncio.to_thread(writer.finish)
    assert await other.begin(KEY, 1) is None
    await asyncio.to_thread(writer.close)
    after = await other.begin(KEY, 1)
    assert after is not None
    await asyncio.to_thread(after.close)


async def test_closing_twice_does_nothing_to_who_came_after(spool: Spool) -> None:
    first = await spool.begin(KEY, 1)
    assert first is not None
    await asyncio.to_thread(first.close)
    second = await spool.begin(KEY, 1)
    assert second is not None
    await asyncio.to_thread(first.close)
    assert await spool.begin(KEY, 1) is None
    await asyncio.to_thread(second.close)


async def test_a_writer_knows_whether_it_is_followed(spool: Spool, other: Spool) -> None:
    writer = await spool.begin(KEY, 1)
    assert writer is not None
    assert not await asyncio.to_thread(writer.is_followed)
    growing = await other.follow(KEY)
    again = await other.follow(KEY)
    assert growing is not None
    assert again is not None
    assert await asyncio.to_thread(writer.is_followed)
    growing.release()
    assert await asyncio.to_thread(writer.is_followed)
    pieces = again.pieces(0, None)
    await asyncio.to_thread(next, pieces)
    again.release()
    assert await asyncio.to_thread(writer.is_followed)  # by who draws pieces still
    await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]  # it is a generator
    await other.free_bytes()  # comes after the closing
    async with asyncio.timeout(30):
        while await asyncio.to_thread(writer.is_followed):
            await other.free_bytes()
    await asyncio.to_thread(writer.close)


async def test_what_cannot_fit_is_refused(spool: Spool) -> None:
    with pytest.raises(StorageFull):
        await spool.begin(KEY, 2**62)
    assert await spool.follow(KEY) is None
    assert await spool.free_bytes() > 0
