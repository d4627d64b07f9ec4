"""What is particular to blobs in a directory: processes that died, files that were lost, descriptors, last uses."""

import asyncio
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blob_readers import read_all
from blockbuster import blockbuster_ctx

from harmonia_py.cache.blobs import BlobKey
from harmonia_py.cache.source import FileSlice
from harmonia_py.errors import StorageError, StorePathChanged
from harmonia_py.storage import growing
from harmonia_py.storage.directory import BlobDirectory
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.growing import WHOLE_MTIME_NS, FileWriter
from harmonia_py.storage.slices import read_slice

KEY = BlobKey("a.nar.zst")


async def put(blobs: DiskBlobs, key: BlobKey, data: bytes = b"data") -> None:
    writer = await blobs.put(key, len(data))
    assert writer is not None
    await asyncio.to_thread(writer.write, data)
    await asyncio.to_thread(writer.commit, {})


async def fetch(blobs: DiskBlobs, key: BlobKey) -> bytes | None:
    blob = await blobs.open(key)
    if blob is None:
        return None
    with blob:
        return await read_all(blob.pieces(0, None))


def file_of(directory: Path, key: BlobKey) -> Path:
    (path,) = (directory / "blobs").glob(f"*/{key}")
    return path


def open_files(directory: Path) -> list[str]:
    links = [os.fspath(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link for link in links if link.startswith(str(directory))]


async def test_blobs_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as blobs:
        await put(blobs, KEY)
    async with DiskBlobs(tmp_path) as blobs:
        assert await fetch(blobs, KEY) == b"data"


async def test_while_nothing_arrives_that_stands_and_no_longer(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as one, DiskBlobs(tmp_path) as two:
        os.utime(tmp_path / "growing", (1, 1))
        standing = await one.arrivals.standing()
        one.arrivals.look_again()
        assert await one.arrivals.standing() is standing
        await put(two, KEY)
        one.arrivals.look_again()
        assert await one.arrivals.standing() is not standing


async def test_a_directory_that_somebody_has_emptied_has_no_arrivals(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as blobs:
        shutil.rmtree(tmp_path / "growing")
        standing = await blobs.arrivals.standing()
        await put(blobs, KEY)
        blobs.arrivals.look_again()
        assert await blobs.arrivals.standing() is not standing


async def test_two_processes_see_each_others_blobs_at_once(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as one, DiskBlobs(tmp_path) as two:
        await put(one, KEY)
        assert await fetch(two, KEY) == b"data"
        await two.delete(KEY)
        assert await two.put(KEY, 1) is not None
        assert await one.put(KEY, 1) is None


async def test_a_blob_that_lost_bytes_is_not_there_and_can_be_put_again(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as blobs:
        await put(blobs, KEY)
    os.truncate(file_of(tmp_path, KEY), 2)
    async with DiskBlobs(tmp_path) as blobs:
        assert await fetch(blobs, KEY) is None
        assert await blobs.metadata(KEY) is None
        assert [info.size async for info in blobs.list()] == [2]  # it takes room until eviction finds it
        await put(blobs, KEY)
        assert await fetch(blobs, KEY) == b"data"


@pytest.mark.parametrize("data", [b"", b"half"])
async def test_the_rest_of_a_dead_writer_is_never_taken_for_a_blob(tmp_path: Path, data: bytes) -> None:
    async with DiskBlobs(tmp_path) as blobs:
        rest = tmp_path / "growing" / KEY
        rest.write_bytes(data)
        os.utime(rest, ns=(0, WHOLE_MTIME_NS))
        with rest.open("rb") as before:
            assert await blobs.open(KEY) is None
            writer = await blobs.put(KEY, 1)
            assert writer is not None
            await asyncio.to_thread(writer.write, b"new")
            assert before.read() == data  # whoever still read it got nothing of the new one
        assert await fetch_growing(blobs, writer) == b"new"


async def fetch_growing(blobs: DiskBlobs, writer: FileWriter) -> bytes:
    blob = await blobs.open(KEY)
    assert blob is not None
    with blob:
        reading = asyncio.create_task(read_all(blob.pieces(0, None)))
        await asyncio.to_thread(writer.commit, {})
        return await reading


async def test_a_file_system_that_cannot_keep_the_mark_costs_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "WHOLE_MTIME_NS", -1)  # no file ever has it
    monkeypatch.setattr(os, "utime", lambda *_arguments, **_keywords: None)
    async with DiskBlobs(tmp_path) as blobs:
        writer = await blobs.put(KEY, 1)
        assert writer is not None
        await asyncio.to_thread(writer.write, b"new")
        assert await fetch_growing(blobs, writer) == b"new"


async def test_a_writer_that_stands_still_does_not_hold_its_readers_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonia_py.storage.disk._STALL_SECONDS", 0.05)
    async with DiskBlobs(tmp_path) as blobs:
        writer = await blobs.put(KEY, 1)
        assert writer is not None
        with pytest.raises(StorageError, match="stands still"):
            await fetch(blobs, KEY)
        await asyncio.to_thread(writer.abort)


async def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        async with DiskBlobs(tmp_path / "file" / "blobs"):
            pass


async def test_a_directory_that_vanishes_and_returns_works_again(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path / "blobs") as blobs:
        (tmp_path / "blobs").rename(tmp_path / "elsewhere")
        with pytest.raises(StorageError):
            await blobs.put(KEY, 1)
        with pytest.raises(StorageError):
            _ = [info async for info in blobs.list()]
        (tmp_path / "blobs").mkdir()
        await put(blobs, KEY)
        assert await fetch(blobs, KEY) == b"data"


async def test_last_uses_are_written_down_when_the_process_ends(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as blobs:
        await put(blobs, KEY)
        os.utime(file_of(tmp_path, KEY), (1000, 1))
        assert [info.last_used async for info in blobs.list()] == [1000]
        await fetch(blobs, KEY)
    status = file_of(tmp_path, KEY).stat()
    assert status.st_atime > 1e9
    assert status.st_mtime_ns == WHOLE_MTIME_NS


async def test_only_so_many_files_stay_open_and_none_after_the_end(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path, max_open=3) as blobs:
        for number in range(10):
            await put(blobs, BlobKey(f"{number}"))
        held = await blobs.open(BlobKey("0"))
        assert held is not None
        for number in range(10):
            assert await fetch(blobs, BlobKey(f"{number}")) == b"data"
        await blobs.free_bytes()  # comes after the closing
        assert len(blobs._files) == 3
        assert await read_all(held.pieces(0, None)) == b"data"
        assert blobs.in_use() == {"0"}
        held.release()
        assert blobs.in_use() == frozenset()
    assert open_files(tmp_path) == []


async def test_who_is_cancelled_while_opening_or_beginning_leaves_nothing_behind(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path, max_open=1) as blobs:
        await put(blobs, BlobKey("whole"))
        await put(blobs, BlobKey("other"))
        for turns in range(30):
            tasks = [asyncio.create_task(blobs.open(BlobKey("whole"))), asyncio.create_task(blobs.put(KEY, 1))]
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for result in done:
                if isinstance(result, FileWriter):
                    await asyncio.to_thread(result.abort)
                elif result is not None and not isinstance(result, BaseException):
                    result.release()
            await fetch(blobs, BlobKey("other"))
        await put(blobs, KEY)
    assert open_files(tmp_path) == []


async def test_the_event_loop_never_waits_for_the_disk(tmp_path: Path) -> None:
    with blockbuster_ctx():
        async with DiskBlobs(tmp_path, max_open=1) as blobs:
            for number in range(3):
                await put(blobs, BlobKey(f"{number}"))
            for number in range(3):
                assert await fetch(blobs, BlobKey(f"{number}")) == b"data"
            writer = await blobs.put(KEY, 1)
            assert writer is not None
            assert await fetch_growing(blobs, writer) == b""
            assert await blobs.metadata(BlobKey("1")) == {}
            assert len([info async for info in blobs.list()]) == 4
            await blobs.delete(KEY)


def test_of_many_threads_that_contend_for_a_name_exactly_one_gets_it(tmp_path: Path) -> None:
    directories = [BlobDirectory(tmp_path) for _ in range(8)]
    directories[0].prepare()
    barrier = threading.Barrier(8)
    written = []

    def contend(directory: BlobDirectory) -> None:
        for number in range(100):
            key = BlobKey(f"{number}")
            barrier.wait(30)
            writer = directory.put(key, 1)
            if writer is not None:
                writer.write(b"x")
                writer.abort() if number % 2 else writer.commit({})
                written.append(key)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(contend, directories))
    # After an abort another may begin; after a commit nobody.
    assert sorted(key for key in written if int(key) % 2 == 0) == sorted(f"{number}" for number in range(0, 100, 2))
    assert len({key for key in written if int(key) % 2}) == 50
    assert list((tmp_path / "growing").iterdir()) == []


def test_processes_that_start_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            list(
                threads.map(lambda directory: directory.prepare(), [BlobDirectory(tmp_path / "new") for _ in range(8)])
            )


def test_a_slice_is_read_in_portions_and_notices_that_its_file_is_shorter(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(100)))
    with file.open("rb") as opened:
        piece = FileSlice(opened.fileno(), 10, 50)
        assert [bytes(part) for part in read_slice(piece, bytearray(30))] == [
            bytes(range(10, 40)),
            bytes(range(40, 60)),
        ]
        with pytest.raises(StorePathChanged):
            list(read_slice(FileSlice(opened.fileno(), 90, 11), bytearray(30)))


@pytest.mark.slow
async def test_a_hundred_thousand_blobs_are_listed_for_little_more_than_looking_at_them_takes(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as blobs:
        for number in range(100_000):
            path = blobs._directory._path(BlobKey(f"{number:052}.nar.zst"))
            path.parent.mkdir(exist_ok=True)
            path.touch()
        ratios = []
        for _ in range(5):
            begun = time.process_time()
            for part in (tmp_path / "blobs").iterdir():
                for name in os.listdir(part):  # noqa: PTH208  # the least that anybody can do
                    os.stat(f"{part}/{name}")  # noqa: PTH116
            looked = time.process_time()
            assert len([info async for info in blobs.list()]) == 100_000
            ratios.append((time.process_time() - looked) / (looked - begun))
        # Measured: 1.3 to 1.8, with everything from the names of the files to the event loop.
        assert min(ratios) < 2.5, ratios


async def test_a_reader_that_is_still_in_a_thread_when_the_blob_is_released_never_sees_another_file(
    tmp_path: Path,
) -> None:
    async with DiskBlobs(tmp_path, max_open=0) as blobs:
        await put(blobs, KEY)
        blob = await blobs.open(KEY)
        assert blob is not None
        pieces, late = blob.pieces(0, None), blob.pieces(0, None)
        piece = next(pieces)
        assert isinstance(piece, FileSlice)
        blob.release()
        await blobs.free_bytes()  # comes after the closing
        with (tmp_path / "another").open("wb+", buffering=0) as another:
            another.write(b"secret")
            assert os.pread(piece.fd, 10, 0) == b"data"
            with pytest.raises(StorageError):
                next(late)
        assert next(pieces, None) is None


async def test_a_start_removes_the_sidecar_of_a_dead_writer_and_leaves_that_of_a_living_one(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as blobs:
        writer = await blobs.put(KEY, 1)
        assert writer is not None
        for name in (f".{KEY}.json", ".dead.json", "dead"):
            (tmp_path / "growing" / name).touch()
        async with DiskBlobs(tmp_path):
            assert {path.name for path in (tmp_path / "growing").iterdir()} == {KEY, f".{KEY}.json"}
        await asyncio.to_thread(writer.abort)
        assert list((tmp_path / "growing").iterdir()) == []


async def test_a_file_system_that_does_not_know_its_size_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ramfs(_path: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 4096, 255))

    monkeypatch.setattr(os, "statvfs", ramfs)
    async with DiskBlobs(tmp_path) as blobs:
        await put(blobs, KEY)
        assert await blobs.free_bytes() > 0
