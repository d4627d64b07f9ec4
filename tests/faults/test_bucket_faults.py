"""A bucket that answers with errors, late, in part, or not at all: no wrong byte, and absence is never made up."""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from blob_readers import read_all
from s3_double import Fault, Object, S3Double

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.storage.s3 import stores, tapped
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.digests import S3Digests
from harmonia_py.storage.spool import DiskSpool

pytestmark = pytest.mark.s3

KEY = BlobKey("nar/a.nar.zst")
LARGE = bytes(range(256)) * 12_000
PART = 5 * 1024 * 1024
_SIGNATURE = "X-Amz-Signature"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket is waited for less long than usual."""
    monkeypatch.setattr(stores, "_ANSWER", timedelta(seconds=2))
    monkeypatch.setattr(stores, "_STALL", timedelta(seconds=2))
    monkeypatch.setattr(stores, "_BACKOFF", {"init_backoff": timedelta(milliseconds=5), "base": 2})
    monkeypatch.setattr(stores, "_ANSWER_SECONDS", 20.0)
    monkeypatch.setattr(tapped, "_ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(tapped, "_STALL_SECONDS", 1.0)


@pytest.fixture
async def bucket(double: S3Double) -> AsyncIterator[S3Blobs]:
    async with S3Blobs(double.settings("kept", part_size=PART)) as bucket:
        yield bucket


@pytest.fixture(params=["from the socket", "by the library"])
def _each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, double: S3Double) -> Iterator[None]:
    """Long objects are read in both ways."""
    by_library = request.param == "by the library"
    if by_library:
        monkeypatch.setattr(tapped, "_WORTH_BYTES", 2**60)
    yield
    assert bool(asked_for_socket(double)) is not by_library


each_way = pytest.mark.usefixtures("_each_way")


def asked_for_socket(double: S3Double) -> int:
    """The number of requests for bytes that threads would receive from the socket: only their URLs are signed."""
    return sum(line.startswith("GET") and _SIGNATURE in line for line in double.seen)


async def read(bucket: S3Blobs, start: int = 0, stop: int | None = None) -> bytes:
    blob = await bucket.open(KEY)
    assert blob is not None
    with blob:
        return await read_all(blob.pieces(start, stop))


def read_in_thread(pieces: Iterator[Piece]) -> bytes:
    data = bytearray()
    for piece in pieces:
        if isinstance(piece, Pause):
            piece.wait_in_thread()
        else:
            assert isinstance(piece, bytes)
            data += piece
    return bytes(data)


@each_way
@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.SLOW_DOWN, Fault.CUT, Fault.LOST, Fault.SILENT, Fault.SLOW])
async def test_a_read_that_fails_twice_is_right_in_the_end(double: S3Double, bucket: S3Blobs, fault: Fault) -> None:
    await bucket.put(KEY, LARGE, {"name": "x"})
    double.fault("GET", "nar/", fault, times=2)
    assert await read(bucket) == LARGE
    assert await read(bucket, 1_000_000, 2_000_001) == LARGE[1_000_000:2_000_001]
    assert not double.faults_left()


@each_way
async def test_a_long_body_that_is_cut_goes_on_where_it_was(double: S3Double, bucket: S3Blobs) -> None:
    await bucket.put(KEY, LARGE, {})
    blob = await bucket.open(KEY)
    assert blob is not None
    double.fault("GET", "nar/", Fault.CUT, times=3)
    with blob:
        assert await read_all(blob.pieces(0, None)) == LARGE
    assert not double.faults_left()


@each_way
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_long_body_that_stalls_goes_on_where_it_was(
    double: S3Double, bucket: S3Blobs, *, in_thread: bool
) -> None:
    """The download was cut, and in a thread the error was not even a `StorageError`."""
    await bucket.put(KEY, LARGE, {})
    blob = await bucket.open(KEY)
    assert blob is not None
    double.fault("GET", "nar/", Fault.STALL)
    with blob:
        pieces = blob.pieces(0, None)
        found = await asyncio.to_thread(read_in_thread, pieces) if in_thread else await read_all(pieces)
    assert found == LARGE
    assert not double.faults_left()


async def test_bytes_of_another_range_are_not_taken_from_the_socket(double: S3Double, bucket: S3Blobs) -> None:
    """A proxy that answered another range of equal length was believed."""
    await bucket.put(KEY, LARGE, {})
    double.fault("GET", _SIGNATURE, Fault.OTHER_RANGE)
    assert await read(bucket) == LARGE
    assert not double.faults_left()


async def test_bytes_of_another_object_are_not_taken_from_the_socket(double: S3Double, bucket: S3Blobs) -> None:
    """A bucket that does not know `If-Match` says by its `ETag` which object it sends."""
    await bucket.put(KEY, LARGE, {})
    blob = await bucket.open(KEY)
    assert blob is not None
    await bucket.put(KEY, bytes(len(LARGE)), {})
    double.fault("GET", _SIGNATURE, Fault.NO_CONDITION)
    with blob, pytest.raises(StorageError):
        await read_all(blob.pieces(0, None))
    assert not double.faults_left()


async def test_where_no_socket_can_be_had_several_times_the_library_reads_for_a_while(
    double: S3Double, bucket: S3Blobs
) -> None:
    """Each long read cost a request that failed."""
    await bucket.put(KEY, LARGE, {})
    double.fault("GET", _SIGNATURE, Fault.ERROR, times=1000)
    for _ in range(5):
        assert await read(bucket) == LARGE
    assert asked_for_socket(double) == 3
    assert bucket.objects._tapped is not None
    bucket.objects._tapped._rests_until = 0.0
    double.mend()
    assert await read(bucket) == LARGE
    assert asked_for_socket(double) == 4


async def test_what_is_read_from_a_socket_ends_with_its_owner(
    double: S3Double, bucket: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stayed open, and a download that went on met "Session is closed", or opened another session."""
    monkeypatch.setattr(tapped, "_STALL_SECONDS", 600.0)
    await bucket.put(KEY, LARGE, {})
    blob = await bucket.open(KEY)
    assert blob is not None
    double.fault("GET", "nar/", Fault.STALL)
    with blob:
        reading = asyncio.create_task(read_all(blob.pieces(0, None)))
        async with asyncio.timeout(5):
            while not bucket.objects._tapped._open_bodies:  # type: ignore[union-attr]  # noqa: ASYNC110  # no event
                await asyncio.sleep(0)
            await bucket.objects.aclose()
            with pytest.raises(StorageError, match="given up"):
                await reading
        del double.seen[:]
        with pytest.raises(StorageError, match="given up"):
            await read_all(blob.pieces(0, None))
        with pytest.raises(StorageError, match="given up"):
            await asyncio.to_thread(read_in_thread, blob.pieces(0, None))
    assert not double.seen


def test_what_is_read_from_a_socket_may_outlive_the_event_loop(double: S3Double) -> None:
    """The socket stayed open, which Python reports, and a thread that waited met a `RuntimeError`."""
    double.objects[f"kept/{KEY}"] = Object(bytes(64 * 1024 * 1024), {})

    async def begin() -> Iterator[Piece]:
        async with S3Blobs(double.settings("kept", part_size=PART)) as bucket:
            blob = await bucket.open(KEY)
            assert blob is not None
            pieces = blob.pieces(0, None)
            taken = 0
            while taken < 1_000_000:
                piece = await asyncio.to_thread(next, pieces)
                if isinstance(piece, Pause):
                    await piece.wait()
                else:
                    assert isinstance(piece, bytes)
                    taken += len(piece)
            blob.release()
            return pieces

    pieces = asyncio.run(begin())
    with pytest.raises(StorageError):
        read_in_thread(pieces)


@each_way
async def test_a_read_that_always_fails_ends_with_an_error_and_not_with_fewer_bytes(
    double: S3Double, bucket: S3Blobs
) -> None:
    await bucket.put(KEY, LARGE, {})
    blob = await bucket.open(KEY)
    assert blob is not None
    double.fault("GET", "nar/", Fault.SILENT, times=1000)
    with blob, pytest.raises(StorageError):
        await read_all(blob.pieces(0, None))


@each_way
async def test_bytes_of_another_object_never_follow_those_of_the_first(double: S3Double, bucket: S3Blobs) -> None:
    await bucket.put(KEY, LARGE, {})
    blob = await bucket.open(KEY)
    assert blob is not None
    await bucket.put(KEY, bytes(len(LARGE)), {})
    with blob, pytest.raises(StorageError):
        await read_all(blob.pieces(0, None))


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.LOST, Fault.SILENT])
@pytest.mark.parametrize("size", [10, PART + 1])
async def test_an_upload_that_fails_twice_is_whole_in_the_end(
    double: S3Double, bucket: S3Blobs, fault: Fault, size: int
) -> None:
    double.fault("PUT", "nar/", fault, times=2)
    double.fault("POST", "nar/", fault)
    await bucket.put(KEY, bytes(size), {"name": "x"})
    assert await read(bucket) == bytes(size)
    assert await bucket.metadata(KEY) == {"name": "x"}
    # One whose beginning was not answered is nobody's; a lifecycle rule ends it.
    assert not any(upload.parts for upload in double.uploads.values()), "no part is left"


async def test_an_upload_whose_last_answer_is_lost_has_succeeded(double: S3Double, bucket: S3Blobs) -> None:
    """The second attempt to complete it is told that there is no such upload."""
    double.fault("POST", "uploadId", Fault.LOST)
    await bucket.put(KEY, bytes(PART + 1), {})
    assert await read(bucket) == bytes(PART + 1)


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.ERROR_IN_200, Fault.SILENT])
async def test_an_upload_that_does_not_succeed_says_so_and_what_was_there_stays(
    double: S3Double, bucket: S3Blobs, fault: Fault
) -> None:
    await bucket.put(KEY, b"before", {"name": "before"})
    double.fault("POST", "uploadId", fault, times=1000)
    with pytest.raises(StorageError):
        await bucket.put(KEY, bytes(PART + 1), {"name": "after"})
    assert await read(bucket) == b"before"
    assert await bucket.metadata(KEY) == {"name": "before"}


async def test_a_file_of_a_spool_is_uploaded_from_its_descriptor(
    double: S3Double, bucket: S3Blobs, tmp_path: Path
) -> None:
    async with DiskSpool(tmp_path / "spool") as spool:
        writer = await spool.begin(KEY, len(LARGE))
        assert writer is not None
        await asyncio.to_thread(writer.write, LARGE)
        file = await asyncio.to_thread(writer.finish)
        double.fault("PUT", "nar/", Fault.LOST)
        await bucket.put(KEY, file, {})
        await asyncio.to_thread(writer.close)
    assert await read(bucket) == LARGE


async def test_that_there_is_no_bucket_does_not_mean_that_there_is_no_file(double: S3Double, bucket: S3Blobs) -> None:
    """Every path would have been quarantined."""
    await bucket.put(KEY, b"data", {})
    double.fault("GET", "nar/", Fault.NO_BUCKET, times=2)
    with pytest.raises(StorageError, match="404 Not Found"):
        await bucket.open(KEY)
    with pytest.raises(StorageError, match="404 Not Found"):
        await bucket.metadata(KEY)
    assert await bucket.metadata(KEY) == {}


async def test_a_server_that_cannot_delete_many_at_once_is_asked_one_by_one(double: S3Double, bucket: S3Blobs) -> None:
    keys = [BlobKey(f"nar/{number}") for number in range(3)]
    for key in keys:
        await bucket.put(key, b"data", {})
    double.fault("POST", "delete", Fault.ERROR, times=3)
    await asyncio.gather(*map(bucket.delete, keys))
    assert [info.key async for info in bucket.list()] == []


async def test_a_deletion_that_fails_says_so(double: S3Double, bucket: S3Blobs) -> None:
    await bucket.put(KEY, b"data", {})
    double.fault("POST", "delete", Fault.SLOW_DOWN, times=1000)
    with pytest.raises(StorageError, match="503"):
        await bucket.delete(KEY)
    assert await bucket.metadata(KEY) is not None


async def test_deletions_that_come_together_are_one_request(double: S3Double, bucket: S3Blobs) -> None:
    await asyncio.gather(*[bucket.delete(BlobKey(f"nar/{number}")) for number in range(400)])
    assert len([line for line in double.seen if line.startswith("POST")]) == 1


async def test_reading_once_more_says_what_is_there(double: S3Double, bucket: S3Blobs) -> None:
    await bucket.put(KEY, LARGE, {"file_hash": "sha256:x"})
    double.fault("GET", "nar/", Fault.CUT, times=2)
    async with S3Digests(double.settings("kept")) as digests:
        digest = await digests.digest(KEY)
        assert digest is not None
        assert (digest.file_size, digest.claimed) == (len(LARGE), "sha256:x")
        assert await digests.digest(BlobKey("nar/none")) is None
        double.fault("GET", "nar/", Fault.NO_BUCKET)
        with pytest.raises(StorageError):
            await digests.digest(KEY)


async def test_a_bucket_that_takes_nothing_is_known_within_seconds(double: S3Double, bucket: S3Blobs) -> None:
    double.fault("PUT", ".probe", Fault.SILENT, times=1000)
    async with asyncio.timeout(30):
        with pytest.raises(StorageError, match=r"in time|cannot be reached"):
            await bucket.objects.probe()


@each_way
async def test_a_download_waits_for_its_client_and_ends_with_it(double: S3Double, bucket: S3Blobs) -> None:
    double.objects[f"kept/{KEY}"] = Object(bytes(64 * 1024 * 1024), {})
    blob = await bucket.open(KEY)
    assert blob is not None
    pieces = blob.pieces(0, None)
    taken = 0
    while taken < 1_000_000:
        piece = await asyncio.to_thread(next, pieces)
        if isinstance(piece, Pause):
            await piece.wait()
        else:
            assert isinstance(piece, bytes)
            taken += len(piece)
    assert under_way(bucket), "64 MiB are not in memory"
    assert isinstance(pieces, Generator)
    await asyncio.to_thread(pieces.close)
    async with asyncio.timeout(30):
        while under_way(bucket):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0)
    blob.release()


def under_way(bucket: S3Blobs) -> int:
    """The number of bodies that have been begun and are not closed."""
    session = bucket.objects._tapped._session if bucket.objects._tapped is not None else None
    connections = session.connector._acquired if session is not None and session.connector is not None else ()
    return len(connections) + len(bucket.objects._arrivals._tasks)


async def test_a_long_object_is_one_request_from_its_socket_and_a_thread_may_wait_for_it(
    double: S3Double, bucket: S3Blobs
) -> None:
    double.objects[f"kept/{KEY}"] = Object(LARGE, {})
    blob = await bucket.open(KEY)
    assert blob is not None
    del double.seen[:]
    double.fault("GET", "nar/", Fault.SLOW)
    with blob:
        assert await asyncio.to_thread(read_in_thread, blob.pieces(70_000, None)) == LARGE[70_000:]
    assert [one.partition("?")[0] for one in double.seen] == [f"GET kept/{KEY}"]
    assert asked_for_socket(double) == 1
    assert not bucket.objects._arrivals._tasks
