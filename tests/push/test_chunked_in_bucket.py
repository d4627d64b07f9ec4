"""Chunks in a bucket: downloads made of ranges of packs, which are fetched together and ahead."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chunking import HELLO, LIBRARY, OTHER, make_chunks, nar_of, program
from house import Clock, House, download, status, team
from pushed_paths import PATH, REFERENCE, STORE, pushed
from pushing import pushed_to
from s3_double import Fault, Object, S3Double
from trees import File, Folder

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.nars import PACKS, RECIPES
from harmonia_py.chunks import windows
from harmonia_py.chunks.pack_collector import SET_ASIDE_SECONDS
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.storage.s3.ranges import S3Ranges

LONG = pushed(PATH, program(PATH, 3_000_000), REFERENCE, compression="zstd")
KEY = BlobKey("packs/one")


@pytest.fixture
async def house(tmp_path: Path, double: S3Double) -> AsyncIterator[House]:
    clock = Clock()
    async with pushed_to(tmp_path, STORE, clock=clock, s3=double.settings()) as server:
        yield House(server, clock)


def packs(double: S3Double) -> dict[str, Object]:
    return {key: found for key, found in double.objects.items() if key.startswith(PACKS)}


def reads_of_packs(double: S3Double, since: int) -> int:
    return sum(line.startswith(f"GET {PACKS}") for line in double.seen[since:])


@pytest.mark.parametrize("compression", ["zstd", "none"])
async def test_any_range_of_a_nar_in_the_chunks_of_a_bucket_is_right(house: House, compression: str) -> None:
    await house.published(LIBRARY, LONG)
    assert (await make_chunks(house)).files == 2
    url = f"/team/{NarUrl(PATH.hash_part, LONG.claim.path_info.nar_hash, compression)}"
    whole = (await house.server.request("GET", url)).body
    assert (nar_of(whole) if compression == "zstd" else whole) == nar_of(LONG.data)
    source = random.Random(6)
    for _ in range(20):
        first = source.randrange(len(whole))
        last = min(len(whole) - 1, first + source.choice([0, 500, 100_000, 2**30]))
        answer = await house.server.request("GET", url, headers={"Range": f"bytes={first}-{last}"})
        assert (answer.status, answer.body) == (206, whole[first : last + 1])


async def test_chunks_that_lie_together_are_fetched_with_one_request(house: House, double: S3Double) -> None:
    await house.published(LIBRARY, LONG)
    await make_chunks(house)
    since = len(double.seen)
    answer = await download(house, LONG)
    assert nar_of(answer.body) == nar_of(LONG.data)
    # A short window for the first byte, and one for all that is left of three megabytes.
    assert 2 <= reads_of_packs(double, since) <= 4


async def test_a_nar_whose_chunks_are_in_several_packs_is_right(
    house: House, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_MOST_SEGMENTS", 5)
    files = {name: File(random.Random(seed).randbytes(400_000)) for seed, name in enumerate([b"a", b"b", b"c"])}
    for path, tree in ((REFERENCE, files[b"b"]), (OTHER, files[b"a"]), (PATH, Folder(files))):
        one = pushed(path, tree, compression="zstd")
        await house.published(one)
        assert (await make_chunks(house)).files == 1
    assert len(packs(double)) == 3
    since = len(double.seen)
    assert nar_of((await download(house, one)).body) == nar_of(one.data)
    assert reads_of_packs(double, since) > 3


async def test_a_pack_that_is_not_in_the_bucket_hides_what_needs_it_and_a_bucket_that_fails_does_not(
    house: House, double: S3Double
) -> None:
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    double.fault("GET", PACKS, Fault.FOREIGN_404)
    with pytest.raises((ConnectionError, EOFError, asyncio.IncompleteReadError)):
        await download(house, HELLO)
    assert await status(house, PATH) == 200
    (pack,) = packs(double)
    del double.objects[pack]
    with pytest.raises((ConnectionError, EOFError, asyncio.IncompleteReadError)):
        await download(house, HELLO)
    assert await status(house, PATH) == 404


async def with_a_pack_to_write_anew(house: House) -> None:
    """`LIBRARY` is kept, of a pack that had much more."""
    await house.published(LIBRARY, HELLO, pushed(REFERENCE, program(REFERENCE, 900_000, 7), compression="zstd"))
    await make_chunks(house)
    row = await team(house)
    await house.server.catalog.deletions.delete(
        row.id, [PATH.hash_part], deleted_by="test", despite_pushes=True, now=house.server.node.now()
    )
    await house.look(0)


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SLOW_DOWN])
async def test_a_pack_that_the_bucket_does_not_give_for_now_is_written_anew_later(
    house: House, double: S3Double, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """An answer that was cut in the middle of a pack hid all paths with chunks in it, like a bad block of a disk."""
    monkeypatch.setattr("harmonia_py.storage.s3.blobs.HEAD_BYTES", 16)
    await with_a_pack_to_write_anew(house)
    (before,) = packs(double)
    now = house.server.node.now()
    collector = house.server.node.chunking.pack_collector(now=lambda: now)
    # The pack is opened, which is slow; what is read of it then does not come.
    double.fault("GET", PACKS, Fault.SLOW)
    double.fault("GET", PACKS, fault, times=1000)
    done = await collector.run()
    assert (done.set_aside, done.written_bytes) == (1, 0)
    assert await status(house, REFERENCE) == 200
    assert set(packs(double)) == {before}
    double.mend()
    now = Timestamp(now + SET_ASIDE_SECONDS)
    while (await collector.run()).removed == 0:
        pass
    assert set(packs(double)) - {before}
    assert await status(house, REFERENCE) == 200
    rows = await house.server.catalog.file_checks.page(None, 10)
    async with house.server.node.chunking.digests() as digests:
        for row in rows:
            digest = await digests.digest(BlobKey(row.blob_key))
            assert digest is not None
            assert digest.file_hash == row.file_hash


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SLOW_DOWN])
@pytest.mark.parametrize("what", [PACKS, RECIPES])
async def test_what_the_bucket_does_not_give_for_now_is_no_fault_of_a_file(
    house: House, double: S3Double, monkeypatch: pytest.MonkeyPatch, what: str, fault: Fault
) -> None:
    """The scrub took a file for rotten whose recipe was cut on its way, and hid its paths."""
    monkeypatch.setattr("harmonia_py.storage.s3.blobs.HEAD_BYTES", 16)
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    async with house.server.node.chunking.digests() as digests:
        for row in await house.server.catalog.file_checks.page(None, 10):
            if what == RECIPES:
                double.fault("GET", what, Fault.SLOW)
            double.fault("GET", what, fault, times=1000)
            with pytest.raises(StorageError, match="the bucket"):
                await digests.digest(BlobKey(row.blob_key))
            double.mend()
            digest = await digests.digest(BlobKey(row.blob_key))
            assert digest is not None
            assert digest.file_hash == row.file_hash


async def test_ranges_of_an_object_are_those_and_no_others(double: S3Double) -> None:
    double.objects[KEY] = Object(bytes(range(250)), {})
    ranges = S3Ranges(double.settings())
    found = await ranges.open(KEY, [(10, 20), (100, 250)])
    assert found is not None
    assert list(found.pieces(12, 20)) == [bytes(range(12, 20))]
    assert list(found.pieces(100, 250)) == [bytes(range(100, 250))]
    for start, stop in ((0, 5), (15, 30), (10, None)):
        with pytest.raises(StorageError):
            list(found.pieces(start, stop))
    for beyond in ([(240, 260)], [(300, 310)]):
        short = await ranges.open(KEY, beyond)
        assert short is not None
        assert short.size == 0
    assert await ranges.open(BlobKey("packs/other"), [(0, 5)]) is None


async def test_a_pack_in_a_bucket_is_written_anew_with_few_requests(house: House, double: S3Double) -> None:
    """Each chunk was read with a request of its own: a pack has a thousand."""
    await with_a_pack_to_write_anew(house)
    (before,) = packs(double)
    since = len(double.seen)
    while (await house.server.node.chunking.pack_collector().run()).removed == 0:
        pass
    assert reads_of_packs(double, since) <= 3
    assert set(packs(double)) - {before}
