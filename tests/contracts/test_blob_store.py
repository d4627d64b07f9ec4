"""What every `BlobStore` promises, tried on each that there is."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import xattr
from blob_readers import read_all
from hypothesis import given
from hypothesis import strategies as st
from memory_storage import MemoryBlobs
from s3_double import S3Double
from seaweed import Bucket

from harmonia_py.contents.blobs import IN_USE, BlobKey, BlobStore
from harmonia_py.errors import FormatError
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.hot import HotBlobs, HotSettings
from harmonia_py.storage.spool import DiskSpool

KEYS = [BlobKey.parse("a.nar.zst"), BlobKey.parse("nar/a.nar.zst"), BlobKey.parse("team/log/a-b.drv")]
KEY = KEYS[0]


_ON_S3 = [pytest.param(name, marks=pytest.mark.s3) for name in ("s3", "s3-hot")]


@pytest.fixture(params=["disk", "disk-sidecar", "memory", "s3-double", "s3-double-hot", *_ON_S3])
async def blobs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[BlobStore]:
    if request.param == "memory":
        yield MemoryBlobs()
        return
    if request.param.startswith("s3"):
        with ExitStack() as stack:
            place: Bucket | S3Double
            if request.param.startswith("s3-double"):
                place = stack.enter_context(S3Double())
            else:
                place = request.getfixturevalue("bucket")
            objects = S3Blobs(place.settings("some/prefix"))
            hot = HotSettings(tmp_path / "hot", 64 * 1024 * 1024, 0)
            async with HotBlobs(objects, hot) if request.param.endswith("hot") else objects as opened:
                yield opened
        return
    if request.param == "disk-sidecar":
        # What pyxattr does on a file system that has no attributes.
        def refuse(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(xattr, "set", refuse)
        monkeypatch.setattr(xattr, "get", refuse)
    async with DiskBlobs(tmp_path / "storage") as disk:
        yield disk


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[DiskSpool]:
    async with DiskSpool(tmp_path / "storage") as spool:
        yield spool


async def test_a_blob_that_was_never_put_is_not_there(blobs: BlobStore) -> None:
    for key in KEYS:
        assert await blobs.open(key) is None
        assert await blobs.metadata(key) is None
        await blobs.delete(key)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
async def test_a_blob_has_its_bytes_and_its_metadata(
    blobs: BlobStore, key: BlobKey, data: bytes, *, durable: bool
) -> None:
    await blobs.put(key, data, {"name": "wörd", "size": "12"}, durable=durable)
    blob = await blobs.open(key)
    assert blob is not None
    with blob:
        assert blob.size == len(data)
        assert blob.metadata == {"name": "wörd", "size": "12"}
        assert await read_all(blob.pieces(0, None)) == data
        assert await read_all(blob.pieces(0, len(data))) == data
        assert await read_all(blob.pieces(100, 200)) == data[100:200]
        assert await read_all(blob.pieces(len(data), None)) == b""
    assert await blobs.metadata(key) == {"name": "wörd", "size": "12"}


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("data", [b"", b"data"])
async def test_a_finished_file_of_a_spool_becomes_a_blob(
    blobs: BlobStore, spool: DiskSpool, key: BlobKey, data: bytes, *, durable: bool
) -> None:
    writer = await spool.begin(key, len(data))
    assert writer is not None
    await asyncio.to_thread(writer.write, data)
    assert await blobs.open(key) is None
    file = await asyncio.to_thread(writer.finish)
    await blobs.put(key, file, {"name": "x" * 5000}, durable=durable)
    await asyncio.to_thread(writer.close)
    blob = await blobs.open(key)
    assert blob is not None
    with blob:
        assert (blob.size, blob.metadata) == (len(data), {"name": "x" * 5000})
        assert await read_all(blob.pieces(0, None)) == data
    assert [info.key async for info in blobs.list()] == [key]


async def test_metadata_may_be_long(blobs: BlobStore) -> None:
    await blobs.put(KEY, b"data", {"narinfo": "x" * 300_000})
    assert await blobs.metadata(KEY) == {"narinfo": "x" * 300_000}


async def test_a_blob_that_is_replaced_is_there_all_the_while(blobs: BlobStore) -> None:
    await blobs.put(KEY, b"old", {"name": "old"})
    opened = await blobs.open(KEY)
    assert opened is not None
    opened.release()
    for data, metadata in ((b"newer", {"name": "new"}), (b"", {"name": "x" * 5000}), (b"last", {})):
        putting = asyncio.create_task(blobs.put(KEY, data, metadata))
        while not putting.done():
            assert await blobs.metadata(KEY) is not None
            await asyncio.sleep(0)
        await putting
        assert await blobs.metadata(KEY) == metadata
        blob = await blobs.open(KEY)
        assert blob is not None
        with blob:
            assert await read_all(blob.pieces(0, None)) == data
    assert [info.key async for info in blobs.list()] == [KEY]


async def test_of_many_that_are_put_under_one_key_one_is_there_whole(blobs: BlobStore) -> None:
    bodies = {str(number): bytes([number]) * 10_000 for number in range(20)}
    await asyncio.gather(*[blobs.put(KEY, data, {"name": name}) for name, data in bodies.items()])
    blob = await blobs.open(KEY)
    assert blob is not None
    with blob:
        assert await read_all(blob.pieces(0, None)) == bodies[blob.metadata["name"]]


async def test_a_deleted_blob_is_gone_but_who_has_it_open_keeps_reading(blobs: BlobStore) -> None:
    for key in KEYS:
        await blobs.put(key, b"data", {})
        blob = await blobs.open(key)
        assert blob is not None
        await blobs.delete(key)
        assert await blobs.open(key) is None
        assert await blobs.metadata(key) is None
        with blob:
            assert await read_all(blob.pieces(0, None)) == b"data"
        await blobs.put(key, b"other", {"new": "yes"})
        assert await blobs.metadata(key) == {"new": "yes"}


async def test_every_blob_is_listed_once_with_its_size_and_last_use(blobs: BlobStore) -> None:
    sizes = {BlobKey.parse(f"{'team/' * (number % 3)}{number}.nar"): number * 10 for number in range(50)}
    for key, size in sizes.items():
        await blobs.put(key, b"x" * size, {"long": "x" * size * 100})
    infos = [info async for info in blobs.list()]
    assert len(infos) == 50
    assert {info.key: info.size for info in infos} == sizes
    before = {info.key: info.last_used for info in infos}
    used = BlobKey("team/7.nar")
    blob = await blobs.open(used)
    assert blob is not None
    assert {info.key async for info in blobs.list() if info.last_used == IN_USE} == {used}
    blob.release()
    after = {info.key: info.last_used async for info in blobs.list()}
    assert before[used] < after[used] < IN_USE
    assert {key for key in after if after[key] != before[key]} == {used}


async def test_a_key_with_a_question_mark_is_a_name_like_any_other(blobs: BlobStore) -> None:
    """So NARs are named that are kept as they are: <NarHash>.nar?hash=<hash part>."""
    key = BlobKey.parse(f"{'0' * 52}.nar?hash={'1' * 32}")
    await blobs.put(key, b"data", {"nar_size": "4"})
    assert [info.key async for info in blobs.list()] == [key]
    assert await blobs.metadata(key) == {"nar_size": "4"}
    await blobs.delete(key)
    assert await blobs.open(key) is None


@given(st.text() | st.lists(st.text(), max_size=6).map("/".join))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    try:
        key = BlobKey.parse(text)
    except FormatError:
        return
    assert str(Path("/x", key)) == f"/x/{text}"
    assert ".." not in Path(key).parts


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", ".hidden", "../a", "a/../b", "a/.b", "/a", "a/", "a//b", "a/b/c/d/e"),
        *("a\0b", "a\n", "ä", "a" * 245, "a b", "a,b", "a\\b"),
    ],
)
def test_a_key_is_never_special_as_a_path(text: str) -> None:
    with pytest.raises(FormatError):
        BlobKey.parse(text)
