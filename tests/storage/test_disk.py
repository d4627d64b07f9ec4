"""What is particular to blobs in a directory: processes that died, files that were lost, descriptors, last uses."""

import asyncio
import errno
import os
import shutil
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from blob_readers import read_all
from blockbuster import blockbuster_ctx
from waiting import eventually

from harmonia_py.cache.source import FileSlice, Pause
from harmonia_py.contents.blobs import IN_USE, BlobKey
from harmonia_py.contents.pieces import read_slice
from harmonia_py.errors import StorageError, StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.storage import growing
from harmonia_py.storage import spool as spool_module
from harmonia_py.storage.directory import BlobDirectory
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.growing import WHOLE_MTIME_NS, FileWriter, try_lock
from harmonia_py.storage.spool import DiskSpool
from harmonia_py.storage.unchanged import is_marked, is_right

KEY = BlobKey("a.nar.zst")


async def put(blobs: DiskBlobs, key: BlobKey, data: bytes = b"data") -> None:
    await blobs.put(key, data, {})


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


async def test_a_file_is_begun_in_a_directory_that_somebody_has_emptied(tmp_path: Path) -> None:
    async with DiskSpool(tmp_path) as spool:
        shutil.rmtree(tmp_path / "growing")
        writer = await spool.begin(KEY, 1)
        assert writer is not None
        await asyncio.to_thread(writer.close)


async def test_two_processes_see_each_others_blobs_at_once(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as one, DiskBlobs(tmp_path) as two:
        await put(one, KEY)
        assert await fetch(two, KEY) == b"data"
        await two.delete(KEY)
        await put(two, KEY, b"other")
        assert await fetch(one, KEY) == b"other"


async def test_a_blob_that_another_process_has_put_anew_is_opened_anew(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path) as one, DiskBlobs(tmp_path, max_open=0) as two:
        await put(one, KEY, b"old")
        assert await fetch(two, KEY) == b"old"
        await put(one, KEY, b"newer")
        assert await fetch(one, KEY) == await fetch(two, KEY) == b"newer"


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
async def test_the_rest_of_a_dead_writer_is_never_taken_for_a_file(tmp_path: Path, data: bytes) -> None:
    async with DiskSpool(tmp_path) as spool:
        rest = tmp_path / "growing" / KEY
        rest.write_bytes(data)
        os.utime(rest, ns=(0, WHOLE_MTIME_NS))
        with rest.open("rb") as before:
            assert await spool.follow(KEY) is None
            writer = await spool.begin(KEY, 1)
            assert writer is not None
            await asyncio.to_thread(writer.write, b"new")
            assert before.read() == data  # whoever still read it got nothing of the new one
        assert await fetch_growing(spool, tmp_path, writer) == b"new"


async def test_the_rest_of_a_writer_that_ends_a_moment_after_the_start_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server was killed and started again at once: what its dying workers had locked stayed until the next start."""
    monkeypatch.setattr(spool_module, "_LOOK_AGAIN_SECONDS", 0.1)
    growing = tmp_path / "growing"
    growing.mkdir()
    with (growing / "dies").open("wb") as dies, (growing / "lives").open("wb") as lives:
        assert try_lock(dies.fileno())
        assert try_lock(lives.fileno())
        async with DiskSpool(tmp_path):
            assert {path.name for path in growing.iterdir()} == {"dies", "lives"}
            dies.close()
            await eventually(lambda: not (growing / "dies").exists())
            assert (growing / "lives").exists()


async def fetch_growing(spool: DiskSpool, directory: Path, writer: FileWriter) -> bytes:
    growing = await spool.follow(KEY)
    assert growing is not None
    reading = asyncio.create_task(read_all(growing.pieces(0, None)))
    file = await asyncio.to_thread(writer.finish)
    await asyncio.to_thread(BlobDirectory(directory).put, KEY, file, {})
    await asyncio.to_thread(writer.close)
    data = await reading
    growing.release()
    return data


async def test_a_file_system_that_cannot_keep_the_mark_costs_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "WHOLE_MTIME_NS", -1)  # no file ever has it
    monkeypatch.setattr(os, "utime", lambda *_arguments, **_keywords: None)
    async with DiskSpool(tmp_path) as spool, DiskSpool(tmp_path) as elsewhere, DiskBlobs(tmp_path):
        writer = await spool.begin(KEY, 1)
        assert writer is not None
        await asyncio.to_thread(writer.write, b"new")
        assert await fetch_growing(elsewhere, tmp_path, writer) == b"new"


async def test_a_writer_that_stands_still_does_not_hold_its_readers_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonia_py.storage.growth.STALL_SECONDS", 0.05)
    async with DiskSpool(tmp_path) as spool:
        writer = await spool.begin(KEY, 1)
        assert writer is not None
        for reader in (spool, DiskSpool(tmp_path)):
            file = await reader.follow(KEY)
            assert file is not None
            with pytest.raises(StorageError, match="stands still"):
                await read_all(file.pieces(0, None))
            file.release()
        await asyncio.to_thread(writer.close)


async def test_many_readers_of_a_file_that_stands_still_cost_as_little_as_one(tmp_path: Path) -> None:
    """300 clients that followed a stalled download asked the disk 62 times a second each: 60 % of a processor."""
    async with DiskSpool(tmp_path) as spool, DiskSpool(tmp_path) as elsewhere:
        writer = await spool.begin(KEY, 1)
        assert writer is not None
        await asyncio.to_thread(writer.write, b"begun")
        for reader in (spool, elsewhere):
            drawn = 0

            async def follow(reader: DiskSpool) -> bytes:
                nonlocal drawn
                file = await reader.follow(KEY)
                assert file is not None
                data = b""
                for piece in file.pieces(0, 10):
                    drawn += 1
                    if isinstance(piece, FileSlice):
                        data += os.pread(piece.fd, piece.size, piece.offset)
                    elif isinstance(piece, Pause):
                        await piece.wait()
                file.release()
                return data

            readers = [asyncio.create_task(follow(reader)) for _ in range(300)]
            if reader is elsewhere:
                await eventually(lambda: KEY in elsewhere._followed)
                await asyncio.sleep(0.1)  # as long as it may look
                growth = reader._followed[KEY]
                before, began = growth.looks, time.monotonic()
                await asyncio.sleep(0.5)
                assert growth.looks - before <= 40 * (time.monotonic() - began)
            else:
                await asyncio.sleep(0.5)
            assert drawn <= 3 * 300
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        await asyncio.to_thread(writer.close)


async def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        async with DiskBlobs(tmp_path / "file" / "blobs"):
            pass


async def test_a_directory_that_vanishes_and_returns_works_again(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path / "blobs") as blobs:
        (tmp_path / "blobs").rename(tmp_path / "elsewhere")
        with pytest.raises(StorageError):
            await blobs.put(KEY, b"", {})
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


async def test_a_file_that_was_changed_is_not_taken_for_whole_because_it_was_used_before(tmp_path: Path) -> None:
    """Wrong bytes were served: writing down the last use of a file that another program had written to since gave it
    back the mark of a whole one."""
    metadata = {"file_hash": str(Hash.of(b"data"))}
    async with DiskBlobs(tmp_path) as blobs:
        await blobs.put(KEY, b"data", metadata)
        assert await fetch(blobs, KEY) == b"data"
        file_of(tmp_path, KEY).write_bytes(b"date")
    assert file_of(tmp_path, KEY).stat().st_atime > 1e9
    async with DiskBlobs(tmp_path) as blobs:
        assert await fetch(blobs, KEY) is None
        assert await blobs.metadata(KEY) is None
        await blobs.put(KEY, b"data", metadata)
        assert await fetch(blobs, KEY) == b"data"


async def test_a_file_that_changes_while_it_is_read_again_gets_no_mark(tmp_path: Path) -> None:
    """A file that was touched is read once, and marked: also when it was written to after its bytes had been read."""
    metadata = {"file_hash": str(Hash.of(b"data"))}
    async with DiskBlobs(tmp_path) as blobs:
        await blobs.put(KEY, b"data", metadata)
        file = file_of(tmp_path, KEY)
        os.utime(file)
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
            assert is_right(opened.fileno(), KEY, status, metadata)
            assert not is_marked(os.fstat(opened.fileno()))
            assert is_right(opened.fileno(), KEY, os.fstat(opened.fileno()), metadata)
            assert is_marked(os.fstat(opened.fileno()))


async def test_only_so_many_files_stay_open_and_none_after_the_end(tmp_path: Path) -> None:
    async with DiskBlobs(tmp_path, max_open=3) as blobs:
        for number in range(10):
            await put(blobs, BlobKey(f"{number}"))
        held = await blobs.open(BlobKey("0"))
        assert held is not None
        for number in range(10):
            assert await fetch(blobs, BlobKey(f"{number}")) == b"data"
        assert len(blobs._files) == 3
        assert await read_all(held.pieces(0, None)) == b"data"
        assert [info.key async for info in blobs.list() if info.last_used == IN_USE] == ["0"]
        held.release()
        assert [info.key async for info in blobs.list() if info.last_used == IN_USE] == []
    assert open_files(tmp_path) == []


async def test_who_is_cancelled_while_opening_or_beginning_leaves_nothing_behind(tmp_path: Path) -> None:
    async with DiskSpool(tmp_path) as spool, DiskBlobs(tmp_path, max_open=1) as blobs:
        await put(blobs, BlobKey("whole"))
        await put(blobs, BlobKey("other"))
        for turns in range(30):
            tasks = [
                asyncio.create_task(blobs.open(BlobKey("whole"))),
                asyncio.create_task(spool.begin(KEY, 1)),
                asyncio.create_task(spool.follow(KEY)),
            ]
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for result in done:
                if isinstance(result, FileWriter):
                    await asyncio.to_thread(result.close)
                elif result is not None and not isinstance(result, BaseException):
                    result.release()
            await fetch(blobs, BlobKey("other"))
        writer = await spool.begin(KEY, 1)
        assert writer is not None
        await asyncio.to_thread(writer.close)
    assert open_files(tmp_path) == []


async def test_the_event_loop_never_waits_for_the_disk(tmp_path: Path) -> None:
    with blockbuster_ctx():
        async with DiskBlobs(tmp_path, max_open=1) as blobs:
            for number in range(3):
                await put(blobs, BlobKey(f"{number}"))
            for number in range(3):
                assert await fetch(blobs, BlobKey(f"{number}")) == b"data"
            async with DiskSpool(tmp_path) as spool, DiskSpool(tmp_path) as elsewhere:
                for reader in (spool, elsewhere):
                    writer = await spool.begin(KEY, 1)
                    assert writer is not None
                    assert await fetch_growing(reader, tmp_path, writer) == b""
            assert await blobs.metadata(BlobKey("1")) == {}
            assert len([info async for info in blobs.list()]) == 4
            await blobs.delete(KEY)


async def test_small_blobs_that_are_put_together_wait_for_the_disk_at_the_same_time_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other each had a flush of the disk for itself: a listing beside each narinfo doubled that."""
    keys, two_are_inside, calls = [BlobKey(f"team/{number}") for number in range(4)], threading.Barrier(2), list[int]()
    fdatasync = os.fdatasync

    def sync(fd: int) -> None:
        calls.append(fd)
        two_are_inside.wait(30)
        fdatasync(fd)

    async with DiskBlobs(tmp_path) as blobs:
        monkeypatch.setattr(os, "fdatasync", sync)
        await asyncio.gather(*(blobs.put(key, key.encode(), {"key": key}) for key in keys))
        assert len(calls) == len(keys)
        for key in keys:
            assert await fetch(blobs, key) == key.encode()
            assert await blobs.metadata(key) == {"key": key}


async def test_a_small_blob_that_cannot_become_durable_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good, fdatasync = BlobKey("team/bad"), BlobKey("team/good"), os.fdatasync

    def sync(fd: int) -> None:
        if os.fstat(fd).st_size == len(bad):
            raise OSError(errno.EIO, "the disk is broken here")
        fdatasync(fd)

    async with DiskBlobs(tmp_path) as blobs:
        monkeypatch.setattr(os, "fdatasync", sync)
        putting = (blobs.put(key, key.encode(), {}) for key in (bad, good))
        error, done = await asyncio.gather(*putting, return_exceptions=True)
        assert isinstance(error, StorageError)
        assert done is None
        assert await blobs.open(bad) is None
        assert await fetch(blobs, good) == good.encode()
    assert list((tmp_path / "growing").iterdir()) == []


async def test_of_many_processes_that_contend_for_a_key_exactly_one_gets_it(tmp_path: Path) -> None:
    directory, written = BlobDirectory(tmp_path), []

    async def contend(spool: DiskSpool, key: BlobKey) -> None:
        writer = await spool.begin(key, 1)
        if writer is not None:
            if await asyncio.to_thread(directory.metadata, key) is None:
                await asyncio.to_thread(writer.write, b"x")
                written.append(key)
                if int(key) % 2 == 0:
                    await asyncio.to_thread(directory.put, key, await asyncio.to_thread(writer.finish), {})
            await asyncio.to_thread(writer.close)

    async with AsyncExitStack() as stack:
        spools = [await stack.enter_async_context(DiskSpool(tmp_path)) for _ in range(8)]
        for number in range(100):
            await asyncio.gather(*[contend(spool, BlobKey(f"{number}")) for spool in spools])
    # After one has given up another may begin; after one has kept it nobody.
    assert sorted(key for key in written if int(key) % 2 == 0) == sorted(f"{number}" for number in range(0, 100, 2))
    assert len({key for key in written if int(key) % 2}) == 50
    assert list((tmp_path / "growing").iterdir()) == []


async def test_processes_that_start_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    async def start() -> None:
        async with DiskSpool(tmp_path / "new"), DiskBlobs(tmp_path / "new") as blobs:
            await blobs.put(KEY, b"data", {})

    for _ in range(20):
        await asyncio.gather(*[start() for _ in range(8)])


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
            path = blobs._directory.path_of(BlobKey(f"{number:052}.nar.zst"))
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
        # Two to three times, with everything from the names of the files to the event loop. A hand-over to a thread for
        # each file would be more than ten times.
        assert min(ratios) < 6, ratios


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
        await blobs.metadata(BlobKey("other"))  # comes after the closing
        with (tmp_path / "another").open("wb+", buffering=0) as another:
            another.write(b"secret")
            assert os.pread(piece.fd, 10, 0) == b"data"
            with pytest.raises(StorageError):
                next(late)
        assert next(pieces, None) is None


async def test_a_start_removes_what_dead_writers_left_and_leaves_what_living_ones_write(tmp_path: Path) -> None:
    async with DiskSpool(tmp_path) as spool, DiskBlobs(tmp_path) as blobs:
        writer = await spool.begin(KEY, 1)
        assert writer is not None
        with blobs._directory._naming.temporary(b"sidecar") as beside:
            for name in (".dead", "dead"):
                (tmp_path / "growing" / name).touch()
            async with DiskSpool(tmp_path):
                assert {path.name for path in (tmp_path / "growing").iterdir()} == {KEY, Path(beside.path).name}
        await asyncio.to_thread(writer.close)
        assert list((tmp_path / "growing").iterdir()) == []


async def test_a_file_system_that_does_not_know_its_size_is_not_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ramfs(_path: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 4096, 255))

    monkeypatch.setattr(os, "statvfs", ramfs)
    async with DiskSpool(tmp_path) as spool:
        writer = await spool.begin(KEY, 2**40)
        assert writer is not None
        await asyncio.to_thread(writer.close)
        assert await spool.free_bytes() > 0


async def test_of_texts_that_are_put_together_one_that_cannot_be_kept_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    async with DiskBlobs(tmp_path / "cache") as blobs:
        keys = [BlobKey(f"team/{number}.narinfo") for number in range(150)]
        wrong = BlobKey("growing/narinfo")
        results = await asyncio.gather(
            *(blobs.put(key, str(key).encode(), {"key": key}) for key in [*keys[:75], wrong, *keys[75:]]),
            return_exceptions=True,
        )
        assert isinstance(results.pop(75), StorageError)
        assert results == [None] * len(keys)
        for key in keys:
            assert await fetch(blobs, key) == str(key).encode()
            assert await blobs.metadata(key) == {"key": key}
