"""What every `BlobStore` promises, tried on each that there is."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import xattr
from blob_readers import read_all
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.cache.blobs import BlobKey, BlobStore
from harmonia_py.errors import FormatError, StorageError, StorageFull
from harmonia_py.storage.disk import DiskBlobs

KEY = BlobKey.parse("a.nar.zst")


@pytest.fixture(params=["disk", "disk-sidecar"])
async def blobs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BlobStore]:
    if request.param == "disk-sidecar":
        # What pyxattr does on a file system that has no attributes.
        def refuse(*_arguments: object) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(xattr, "set", refuse)
        monkeypatch.setattr(xattr, "get", refuse)
    async with DiskBlobs(tmp_path / "blobs") as disk:
        yield disk


async def put(blobs: BlobStore, key: BlobKey, data: bytes, **metadata: str) -> None:
    writer = await blobs.put(key, len(data))
    assert writer is not None
    await asyncio.to_thread(writer.write, data)
    await asyncio.to_thread(writer.commit, metadata)


async def test_a_blob_that_was_never_put_is_not_there(blobs: BlobStore) -> None:
    assert await blobs.open(KEY) is None
    assert await blobs.metadata(KEY) is None
    await blobs.delete(KEY)


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
async def test_a_committed_blob_has_its_bytes_and_its_metadata(blobs: BlobStore, data: bytes) -> None:
    await put(blobs, KEY, data, name="wörd", size="12")
    blob = await blobs.open(KEY)
    assert blob is not None
    with blob:
        assert blob.size == len(data)
        assert blob.metadata == {"name": "wörd", "size": "12"}
        assert await read_all(blob.pieces(0, None)) == data
        assert await read_all(blob.pieces(0, len(data))) == data
        assert await read_all(blob.pieces(100, 200)) == data[100:200]
        assert await read_all(blob.pieces(len(data), None)) == b""
    assert await blobs.metadata(KEY) == {"name": "wörd", "size": "12"}


async def test_metadata_may_be_long(blobs: BlobStore) -> None:
    await put(blobs, KEY, b"data", narinfo="x" * 300_000)
    assert await blobs.metadata(KEY) == {"narinfo": "x" * 300_000}


async def test_a_blob_that_is_replaced_is_there_all_the_while(blobs: BlobStore) -> None:
    await put(blobs, KEY, b"old", name="old")
    opened = await blobs.open(KEY)
    assert opened is not None
    opened.release()
    for data, metadata in ((b"newer", {"name": "new"}), (b"", {"name": "x" * 5000}), (b"last", {})):
        before = await blobs.metadata(KEY)
        given_up = await blobs.put(KEY, 10, replace=True)
        assert given_up is not None
        assert await blobs.put(KEY, 10, replace=True) is None
        await asyncio.to_thread(given_up.write, b"what nobody will see")
        await asyncio.to_thread(given_up.abort)
        writer = await blobs.put(KEY, 10, replace=True)
        assert writer is not None
        assert await blobs.metadata(KEY) == before
        await asyncio.to_thread(writer.write, data)
        await asyncio.to_thread(writer.commit, metadata)
        assert await blobs.metadata(KEY) == metadata
        blob = await blobs.open(KEY)
        assert blob is not None
        with blob:
            assert await read_all(blob.pieces(0, None)) == data
    assert [info.key async for info in blobs.list()] == [KEY]


async def test_a_blob_is_not_whole_before_it_is_committed(blobs: BlobStore) -> None:
    writer = await blobs.put(KEY, 10)
    assert writer is not None
    await asyncio.to_thread(writer.write, b"12345")
    assert await blobs.metadata(KEY) is None
    assert [info async for info in blobs.list()] == []
    await asyncio.to_thread(writer.abort)
    assert await blobs.open(KEY) is None


async def test_who_opens_a_growing_blob_reads_it_to_its_end(blobs: BlobStore) -> None:
    writer = await blobs.put(KEY, 10)
    assert writer is not None
    await asyncio.to_thread(writer.write, b"12345")
    blob = await blobs.open(KEY)
    assert blob is not None
    assert blob.size is None
    with blob:
        reading = asyncio.create_task(read_all(blob.pieces(0, None)))
        part = asyncio.create_task(read_all(blob.pieces(2, 7)))
        await asyncio.to_thread(writer.write, b"67890")
        assert await part == b"34567"
        await asyncio.to_thread(writer.commit, {})
        assert await reading == b"1234567890"
    whole = await blobs.open(KEY)
    assert whole is not None
    with whole:
        assert whole.size == 10


async def test_who_reads_a_growing_blob_is_cut_when_its_writer_gives_up(blobs: BlobStore) -> None:
    writer = await blobs.put(KEY, 10)
    assert writer is not None
    await asyncio.to_thread(writer.write, b"12345")
    blob = await blobs.open(KEY)
    assert blob is not None
    with blob:
        reading = asyncio.create_task(read_all(blob.pieces(0, None)))
        await asyncio.to_thread(writer.abort)
        with pytest.raises(StorageError):
            await reading
    assert await blobs.open(KEY) is None
    await put(blobs, KEY, b"again")
    assert await blobs.metadata(KEY) == {}


async def test_of_many_who_want_to_write_one_may(blobs: BlobStore) -> None:
    writers = [writer for writer in await asyncio.gather(*[blobs.put(KEY, 1) for _ in range(20)]) if writer is not None]
    assert len(writers) == 1
    await asyncio.to_thread(writers[0].commit, {})
    assert await blobs.put(KEY, 1) is None


async def test_after_commit_or_abort_a_writer_does_nothing(blobs: BlobStore) -> None:
    writer = await blobs.put(KEY, 1)
    assert writer is not None
    await asyncio.to_thread(writer.commit, {"first": ""})
    await asyncio.to_thread(writer.abort)
    await asyncio.to_thread(writer.commit, {"second": ""})
    assert await blobs.metadata(KEY) == {"first": ""}


async def test_a_deleted_blob_is_gone_but_who_has_it_open_keeps_reading(blobs: BlobStore) -> None:
    await put(blobs, KEY, b"data")
    blob = await blobs.open(KEY)
    assert blob is not None
    await blobs.delete(KEY)
    assert await blobs.open(KEY) is None
    assert await blobs.metadata(KEY) is None
    with blob:
        assert await read_all(blob.pieces(0, None)) == b"data"
    await put(blobs, KEY, b"other", new="yes")
    assert await blobs.metadata(KEY) == {"new": "yes"}


async def test_every_whole_blob_is_listed_once_with_its_size_and_last_use(blobs: BlobStore) -> None:
    sizes = {BlobKey.parse(f"{number}.nar"): number * 10 for number in range(50)}
    for key, size in sizes.items():
        await put(blobs, key, b"x" * size, long="x" * size * 100)
    infos = [info async for info in blobs.list()]
    assert len(infos) == 50
    assert {info.key: info.size for info in infos} == sizes
    before = {info.key: info.last_used for info in infos}
    used = BlobKey("7.nar")
    blob = await blobs.open(used)
    assert blob is not None
    blob.release()
    after = {info.key: info.last_used async for info in blobs.list()}
    assert after[used] > before[used]
    assert {key for key in after if after[key] != before[key]} == {used}


async def test_a_blob_that_cannot_fit_is_refused(blobs: BlobStore) -> None:
    with pytest.raises(StorageFull):
        await blobs.put(KEY, 2**62)
    assert await blobs.open(KEY) is None


@given(st.text())
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        key = BlobKey.parse(text)
    except FormatError:
        return
    assert Path(key).name == key == text


@pytest.mark.parametrize("text", ["", ".", "..", ".hidden", "a/b", "../a", "a\0b", "a\n", "ä", "a" * 245, "a b"])
def test_a_key_is_never_special_as_a_path(text: str) -> None:
    with pytest.raises(FormatError):
        BlobKey.parse(text)
