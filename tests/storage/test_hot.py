"""Copies in front of a bucket: what they save, and that they are never taken for more than the bucket has."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from blob_readers import read_all
from s3_double import Fault, S3Double
from waiting import eventually

from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import StorageFull
from harmonia_py.nix.hashes import Hash
from harmonia_py.storage.s3 import copying
from harmonia_py.storage.s3 import hot as module
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.copies import Copies
from harmonia_py.storage.s3.hot import HotBlobs, HotSettings

DATA = bytes(range(256)) * 1024
KEY = BlobKey("nar/a.nar.zst")
METADATA = {"file_hash": str(Hash.of(DATA))}
ROOM = 16 * len(DATA)


class Front:
    """Makes workers of one machine: each has copies in the same directory."""

    def __init__(self, double: S3Double, directory: Path, stack: AsyncExitStack) -> None:
        self.double = double
        self.directory = directory
        self._stack = stack

    async def worker(self, room: int = ROOM, min_free: int = 0, prefix: str = "kept") -> HotBlobs:
        bucket = S3Blobs(self.double.settings(prefix))
        return await self._stack.enter_async_context(HotBlobs(bucket, HotSettings(self.directory, room, min_free)))

    def size(self) -> int:
        return Copies(self.directory, ROOM, 0).size()

    def files(self) -> list[Path]:
        return [
            path for path in self.directory.rglob("*") if path.is_file() and path.name not in (".bytes", ".evicting")
        ]

    def taken(self) -> int:
        """The bytes of the files; one that is evicted at this moment has none."""
        sizes = []
        for path in self.files():
            with suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        return sum(sizes)


@pytest.fixture
async def front(double: S3Double, tmp_path: Path) -> AsyncIterator[Front]:
    async with AsyncExitStack() as stack:
        yield Front(double, tmp_path / "hot", stack)


async def read(blobs: HotBlobs, key: BlobKey = KEY) -> bytes:
    blob = await blobs.open(key)
    assert blob is not None
    with blob:
        return await read_all(blob.pieces(0, None))


async def copied(blobs: HotBlobs, key: BlobKey = KEY, before: float | None = None) -> None:
    """Read a file, and wait until there is a copy of it; `before` are the bytes copied when it was first read."""
    if before is None:
        before = blobs.counters.copied_bytes.value
    async with asyncio.timeout(60):
        while blobs.counters.copied_bytes.value == before:  # none is made while others are evicted
            if key not in blobs._copying._keys:
                await read(blobs, key)
            await asyncio.sleep(0.005)


async def test_a_file_that_was_read_comes_from_the_disk_in_every_worker(front: Front) -> None:
    first, second = await front.worker(), await front.worker()
    await first.put(KEY, DATA, METADATA)
    await copied(first)
    for worker in (first, second):
        blob = await worker.open(KEY)
        assert blob is not None
        with blob:
            assert (blob.size, blob.metadata) == (len(DATA), METADATA)
            assert blob.file is not None, "sendfile sends it"
            assert await read_all(blob.pieces(1000, 2000)) == DATA[1000:2000]
    assert (first.counters.hits.value, first.counters.misses.value) == (1, 1)
    assert (second.counters.hits.value, second.counters.misses.value) == (1, 0)
    assert front.size() == len(DATA)


async def test_a_file_that_says_its_hash_by_its_name_alone_is_copied(front: Front) -> None:
    """What clients have sent to the bucket themselves has no metadata of ours."""
    worker = await front.worker()
    key = BlobKey(f"nar/{Hash.of(DATA).nix32}.nar.xz")
    await worker.put(key, DATA, {})
    await copied(worker, key)
    assert await read(worker, key) == DATA
    assert worker.counters.hits.value == 1


@pytest.mark.parametrize(
    ("key", "data", "metadata"),
    [
        (KEY, DATA, {}),  # a narinfo of the static side is written anew under its key
        (KEY, DATA[: 64 * 1024], {"file_hash": str(Hash.of(DATA[: 64 * 1024]))}),  # comes with the first answer
        (KEY, DATA * 5, {"file_hash": str(Hash.of(DATA * 5))}),  # would drive out all others
        (KEY, DATA, {"file_hash": str(Hash.of(b"other"))}),
    ],
)
async def test_a_file_without_its_hash_a_small_a_huge_and_a_wrong_one_is_not_copied(
    front: Front, key: BlobKey, data: bytes, metadata: dict[str, str]
) -> None:
    worker = await front.worker()
    await worker.put(key, data, metadata)
    assert await read(worker) == data
    await worker.__aexit__(None, None, None)
    assert front.files() == []
    assert front.size() == 0


async def test_what_is_deleted_here_is_gone_at_once_in_every_worker(front: Front) -> None:
    first, second = await front.worker(), await front.worker()
    await first.put(KEY, DATA, METADATA)
    await copied(first)
    assert await read(second) == DATA
    await first.delete(KEY)
    assert await first.open(KEY) is None
    assert await second.open(KEY) is None
    assert (front.size(), front.files()) == (0, [])


async def test_what_another_machine_deletes_or_replaces_is_served_for_a_minute_at_most(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    worker = await front.worker()
    monkeypatch.setattr(worker._confirmed, "_clock", lambda: now)
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)
    assert await read(worker) == DATA
    other = DATA[::-1]
    await worker.bucket.put(KEY, other, {"file_hash": str(Hash.of(other))})
    now += 59.0
    assert await read(worker) == DATA
    now += 2.0
    assert await read(worker) == other
    await eventually(lambda: worker.counters.copied_bytes.value == 2 * len(DATA))
    assert await read(worker) == other
    await worker.bucket.delete(KEY)
    now += 61.0
    assert await worker.open(KEY) is None
    assert front.size() == 0


async def test_a_copy_is_served_while_the_bucket_does_not_answer(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.2)
    worker = await front.worker()
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)
    front.double.fault("GET", "nar/", Fault.SILENT, times=1000)
    async with asyncio.timeout(30):
        for _ in range(20):
            assert await read(worker) == DATA


async def test_questions_that_wait_for_the_bucket_hold_up_no_download(front: Front) -> None:
    """While a client asked for a closure, copies of files that were gone were served: the bucket "did not answer"."""
    worker = await front.worker()
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)
    del front.double.objects[f"kept/{KEY}"]
    async with AsyncExitStack() as questions:
        while not worker.bucket._asking.locked():
            await questions.enter_async_context(worker.bucket._asking)
        assert await worker.open(KEY) is None


async def test_a_client_that_leaves_or_wants_a_part_leaves_no_copy(front: Front) -> None:
    worker = await front.worker()
    await worker.put(KEY, DATA, METADATA)
    blob = await worker.open(KEY)
    assert blob is not None

    def leave(blob: Blob) -> None:
        pieces = blob.pieces(0, None)
        assert next(pieces)
        assert front.size() == len(DATA), "it has its room from the first byte on"
        pieces.close()  # type: ignore[attr-defined]  # a generator

    with blob:
        await asyncio.to_thread(leave, blob)
        assert await read_all(blob.pieces(1, None)) == DATA[1:]
        await eventually(lambda: front.size() == 0)
    assert front.files() == []
    await copied(worker)


async def test_copies_take_no_more_room_than_they_may_and_the_longest_unused_goes_first(front: Front) -> None:
    workers = [await front.worker(), await front.worker()]
    files = {BlobKey(f"nar/{number}.nar"): bytes([number]) + DATA[1:] for number in range(40)}
    for number, (key, data) in enumerate(files.items()):
        worker = workers[number % 2]
        await worker.put(key, data, {"file_hash": str(Hash.of(data))})
        await copied(worker, key)
        assert front.size() <= ROOM
        assert front.taken() <= ROOM
    assert sum(worker.counters.evicted_bytes.value for worker in workers) >= 24 * len(DATA)
    for worker in workers:
        before = worker.counters.hits.value
        assert await read(worker, BlobKey("nar/39.nar")) == files[BlobKey("nar/39.nar")]
        assert worker.counters.hits.value == before + 1


async def test_the_longest_unused_go_for_a_file_that_finds_no_room_beside_them(front: Front) -> None:
    """With nine tenths taken large files found no room, and nothing went for them: the copies never changed again."""
    worker = await front.worker()
    for number in range(14):
        data = bytes([number]) + DATA[1:]
        key = BlobKey(f"nar/{number}.nar")
        await worker.put(key, data, {"file_hash": str(Hash.of(data))})
        await copied(worker, key)
    large = DATA * 4
    await worker.put(KEY, large, {"file_hash": str(Hash.of(large))})
    await copied(worker)
    assert front.taken() <= ROOM
    hits = worker.counters.hits.value
    assert await read(worker) == large
    assert worker.counters.hits.value == hits + 1


async def test_no_more_is_copied_at_once_than_may_be_and_a_copy_that_ends_makes_place(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_MOST_AT_ONCE", 1)
    worker = await front.worker()
    other = BlobKey("nar/b.nar")
    for key in (KEY, other):
        await worker.put(key, DATA, METADATA)
    slow = await worker.open(KEY)
    assert slow is not None
    with slow:
        pieces = slow.pieces(0, None)
        assert await asyncio.to_thread(next, pieces)
        assert await read(worker, other) == DATA
        assert other not in worker._copying._keys
        assert len(front.files()) == 1
        await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]  # a generator
    await copied(worker, other)


async def test_nothing_is_copied_when_the_file_system_would_be_too_full(front: Front) -> None:
    worker = await front.worker(min_free=2**62)
    await worker.put(KEY, DATA, METADATA)
    assert await read(worker) == DATA
    await worker.__aexit__(None, None, None)
    assert front.size() == 0


_KILLED = """
import os, sys
from pathlib import Path
from harmonia_py.storage.s3.copies import Copies
copies = Copies(Path(sys.argv[1]), 1 << 30, 0)
copies.prepare()
copy = copies.begin(100_000, bytes(32))
copy.add(b"half of it")
print("begun", flush=True)
os.read(0, 1)
"""


async def test_what_a_killed_process_was_copying_is_removed_at_the_next_start(front: Front) -> None:
    killed = subprocess.Popen(  # noqa: ASYNC220  # its output is waited for in a thread
        [sys.executable, "-c", _KILLED, str(front.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with killed:
        assert killed.stdout is not None
        await asyncio.to_thread(killed.stdout.readline)
        worker = await front.worker()
        # The first worker counts in its own time: once that process is dead, what it leaves may go at any moment.
        assert (front.size(), len(front.files())) == (100_000, 1), "the other process is alive"
        killed.send_signal(signal.SIGKILL)
    await front.worker()
    await eventually(lambda: (front.size(), front.files()) == (0, []))
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)


async def test_copies_that_a_count_does_not_know_are_counted_when_room_is_made(front: Front) -> None:
    worker = await front.worker()
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)
    (front.directory / ".bytes").write_bytes(b"%020d" % (2 * ROOM))
    await asyncio.to_thread(worker._copying._make_room, 0)
    assert front.size() == len(DATA)
    assert await read(worker) == DATA


async def test_what_a_count_does_not_know_after_a_power_cut_is_counted_at_the_next_start(front: Front) -> None:
    """The file with the count was not durable: copies took twice the room that they may."""
    worker = await front.worker()
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)
    for lost in (b"", b"%020d" % 0):
        (front.directory / ".bytes").write_bytes(lost)
        await front.worker()
        await eventually(lambda: front.size() == len(DATA))


async def test_nothing_is_counted_between_the_room_of_a_copy_and_its_file(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eviction in between counted the files, and forgot a copy that had its room and no file yet."""
    await front.worker()
    ours, others = (Copies(front.directory, ROOM, 0) for _ in range(2))
    create = ours._files.create

    def is_alone() -> tuple[int, Path]:
        with pytest.raises(BlockingIOError), others._counting(fcntl.LOCK_NB):
            pass
        return create()

    monkeypatch.setattr(ours._files, "create", is_alone)

    def begin() -> None:
        copy = None
        while copy is None:  # the files are counted at the start
            copy = ours.begin(1000, bytes(32))
        assert front.size() == 1000
        ours.give_up(copy)

    await asyncio.to_thread(begin)


async def test_a_count_that_is_locked_is_no_want_of_room_and_one_evicts_at_a_time(front: Front) -> None:
    """Each download that began while copies were counted or evicted asked for another eviction."""
    front.directory.mkdir()
    ours, others = (Copies(front.directory, 1000, 0) for _ in range(2))
    ours.prepare()
    with ours._counting():
        assert others.begin(1000, bytes(32)) is None
    copy = others.begin(1000, bytes(32))
    assert copy is not None
    with pytest.raises(StorageFull):
        others.begin(1, bytes(32))
    with ours._locked(".evicting", 0):
        assert others.make_room(1000) == 0
        others.give_up(copy)
        copy = others.begin(1000, bytes(32))
        assert copy is not None, "while another evicts"
        others.give_up(copy)


async def test_a_deletion_waits_for_no_lock_where_there_is_no_copy(front: Front) -> None:
    """Every upload and deletion in the bucket waited until another process had counted its copies."""
    worker = await front.worker()
    await eventually((front.directory / ".bytes").exists)
    with Copies(front.directory, ROOM, 0)._counting():
        async with asyncio.timeout(20):
            await worker.put(KEY, DATA, METADATA)
            await worker.delete(KEY)


async def test_copies_rest_when_the_disk_hangs(front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each download of a file that has a copy waited half a minute for a disk that did not answer."""
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.5)
    worker = await front.worker()
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)
    (path,) = front.files()
    path.unlink()
    os.mkfifo(path)  # to open it takes until another program does
    (tmp_path / "other").hardlink_to(path)
    try:
        async with asyncio.timeout(20):
            assert await read(worker) == DATA
            assert worker._copying.rests
            for _ in range(20):
                assert await read(worker) == DATA
    finally:
        os.close(os.open(tmp_path / "other", os.O_WRONLY | os.O_NONBLOCK))
    worker._copying._rests_until = 0.0
    await copied(worker)


async def test_a_file_that_the_bucket_has_wrong_is_copied_once(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    """Each download of a file that was wrong in the bucket was written to the disk, and thrown away."""
    worker = await front.worker()
    await worker.put(KEY, DATA, {"file_hash": str(Hash.of(b"other"))})
    for _ in range(3):
        assert await read(worker) == DATA
        await eventually(lambda: KEY not in worker._copying._keys)
    assert len([record for record in caplog.records if "has other bytes" in record.message]) == 1
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)


async def test_parts_of_a_bucket_share_a_directory_and_no_copy(front: Front) -> None:
    """A server of another prefix removed the copies of equal names, and served them while its bucket was silent."""
    first, second = await front.worker(), await front.worker(prefix="other")
    other = DATA[::-1]
    await first.put(KEY, DATA, METADATA)
    await copied(first)
    await second.put(KEY, other, {"file_hash": str(Hash.of(other))})
    await copied(second)
    for worker, data in ((first, DATA), (second, other)):
        assert await read(worker) == data
        assert worker.counters.hits.value == 1
    await second.delete(KEY)
    assert await read(first) == DATA
    assert first.counters.hits.value == 2


async def test_a_copy_whose_file_says_its_hash_by_its_name_alone_is_not_served_changed(front: Front) -> None:
    """The copy of such a file had no hash that it could be held against, and was served with other bytes."""
    worker = await front.worker()
    key = BlobKey(f"nar/{Hash.of(DATA).nix32}.nar.xz")
    await worker.put(key, DATA, {})
    await copied(worker, key)
    (path,) = front.files()
    path.write_bytes(DATA[::-1])
    before = worker.counters.copied_bytes.value
    assert await read(worker, key) == DATA
    assert worker.counters.hits.value == 0
    await copied(worker, key, before)  # where a flush takes no time, that read has made the copy already
    blob = await worker.open(key)
    assert blob is not None
    with blob:
        assert blob.metadata == {}, "as the bucket says it"
        assert blob.file is not None


async def test_a_copy_that_was_cut_or_changed_on_the_disk_is_not_served(front: Front) -> None:
    worker = await front.worker()
    await worker.put(KEY, DATA, METADATA)
    await copied(worker)
    for damage in (lambda path: os.truncate(path, 1000), lambda path: path.write_bytes(DATA[::-1])):
        (path,) = front.files()
        damage(path)
        hits = worker.counters.hits.value
        await copied(worker)
        assert worker.counters.hits.value == hits
        assert await read(worker) == DATA
        assert worker.counters.hits.value == hits + 1


async def test_a_directory_that_cannot_be_used_costs_the_copies_alone(
    double: S3Double, front: Front, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    bucket = S3Blobs(double.settings("kept"))
    async with HotBlobs(bucket, HotSettings(tmp_path / "file" / "hot", ROOM, 0)) as worker:
        await worker.put(KEY, DATA, METADATA)
        assert await read(worker) == DATA
        await worker.delete(KEY)
        assert await worker.open(KEY) is None
