"""Whose work is done, in which order, and when it is given up; and uploads, which are but another producer."""

import asyncio
import gc
import hashlib
import lzma
import random
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from blob_readers import read_all
from nar_source import FileNar, compressed, compressing, storage_in
from waiting import eventually

from harmonia_py.cache.source import Asker, Download
from harmonia_py.contents import flight, ingest, writing
from harmonia_py.contents.blobs import BlobKey, SpooledFile
from harmonia_py.contents.compressed import CompressedNars
from harmonia_py.contents.compressed_metrics import CompressedCounters
from harmonia_py.contents.compressing import Compressing
from harmonia_py.contents.encoders import encoder
from harmonia_py.contents.incoming import Lane, Take
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.kept_files import key_of
from harmonia_py.contents.nar_check import NarBounds, NarCheck
from harmonia_py.contents.storage import Storage
from harmonia_py.errors import FormatError, HarmoniaError, StorageError
from harmonia_py.runtime.threads import Pool, Threads, in_thread
from harmonia_py.runtime.turns import Turn, Turns
from harmonia_py.server.supervisor import KILL_GRACE
from harmonia_py.storage.growing import FileWriter

LARGE = 3_000_000


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with storage_in(tmp_path / "storage") as storage:
        yield storage


def file_nar(directory: Path, name: str, size: int = LARGE) -> FileNar:
    file = directory / name
    file.write_bytes(random.Random(name).randbytes(size))
    return FileNar(file)


async def fetch(source: CompressedNars, nar: FileNar, client: str = "") -> bytes:
    found = await source.nar(nar.url, Asker(client))
    assert found is not None
    with found:
        return await read_all(found.pieces(0, None))


async def leave(*tasks: "asyncio.Task[bytes]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class Sources:
    """One source for each NAR, over the same threads and the same storage."""

    def __init__(self, storage: Storage, stack: AsyncExitStack, shared: Compressing) -> None:
        self._storage = storage
        self._stack = stack
        self._shared = shared

    async def over(self, nar: FileNar) -> CompressedNars:
        return await self._stack.enter_async_context(compressed(nar, self._storage, self._shared))


@pytest.fixture
async def sources(storage: Storage) -> AsyncIterator[Sources]:
    async with AsyncExitStack() as stack:
        yield Sources(storage, stack, compressing(at_once=1))


class TestHead:
    async def test_it_begins_no_work(self, storage: Storage, tmp_path: Path) -> None:
        """60 HEADs began 60 compressions, and a NAR of 1 KiB waited 53 seconds behind them."""
        nar = file_nar(tmp_path, "nar")
        async with compressed(nar, storage) as source:
            for _ in range(60):
                found = await source.nar(nar.url, Asker("one", begins=False))
                assert found is not None
                with found:
                    assert found.size is None
                    with pytest.raises(StorageError):
                        await read_all(found.pieces(0, None))
            assert nar.dump_count() == 0
            assert list((tmp_path / "storage/growing").iterdir()) == []
            assert await source.keep(nar.url)
            found = await source.nar(nar.url, Asker("one", begins=False))
            assert found is not None
            with found:
                assert found.size is not None

    async def test_where_nothing_can_be_kept_it_begins_none_either(self, tmp_path: Path) -> None:
        nar = file_nar(tmp_path, "nar")
        async with compressed(nar, Storage()) as source:
            found = await source.nar(nar.url, Asker("one", begins=False))
            assert found is not None
            found.release()
        assert nar.dump_count() == 0


class TestShares:
    async def test_a_small_nar_does_not_wait_behind_large_ones(self, sources: Sources, tmp_path: Path) -> None:
        large, small = file_nar(tmp_path, "large"), file_nar(tmp_path, "small", 1000)
        first, second = await sources.over(large), await sources.over(small)
        large.gate.clear()
        running = asyncio.create_task(fetch(first, large))
        await asyncio.to_thread(large.half.wait)
        assert await fetch(second, small)
        assert not running.done()
        large.gate.set()
        await running

    async def test_what_a_client_queues_does_not_come_before_what_another_asks_for(
        self, sources: Sources, tmp_path: Path
    ) -> None:
        nars = [file_nar(tmp_path, f"{number}", LARGE + number) for number in range(4)]
        opened = [await sources.over(nar) for nar in nars]

        def ask(number: int, client: str) -> "asyncio.Task[bytes]":
            return asyncio.create_task(fetch(opened[number], nars[number], client))

        nars[0].gate.clear()
        nars[3].gate.clear()
        running = [ask(0, "greedy")]
        await asyncio.to_thread(nars[0].half.wait)
        running += [ask(number, "greedy") for number in (1, 2)]
        for number in (1, 2):
            assert (await _queued(opened[number], nars[number])).is_waiting
        running.append(ask(3, "modest"))
        assert (await _queued(opened[3], nars[3])).is_waiting
        nars[0].gate.set()
        await asyncio.to_thread(nars[3].half.wait)
        assert [nar.dump_count() for nar in nars] == [1, 0, 0, 1]
        nars[3].gate.set()
        await asyncio.gather(*running)
        assert [nar.dump_count() for nar in nars] == [1, 1, 1, 1]


async def _queued(source: CompressedNars, nar: FileNar) -> Turn:
    """The turn for which a NAR waits, once it does."""
    async with asyncio.timeout(30):
        while True:
            one = source._intake._flights.get(key_of(nar.url))
            if one is not None and one._turn is not None:
                return one._turn
            await asyncio.sleep(0)


class TestLeaving:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(flight, "_ABANDONED_SECONDS", 0.02)

    async def test_what_waits_leaves_with_its_last_client(self, sources: Sources, tmp_path: Path) -> None:
        """What a client had queued was compressed though the client had left long before."""
        nars = [file_nar(tmp_path, f"{number}", LARGE + number) for number in range(3)]
        opened = [await sources.over(nar) for nar in nars]
        nars[0].gate.clear()
        running = asyncio.create_task(fetch(opened[0], nars[0]))
        await asyncio.to_thread(nars[0].half.wait)
        leaving = asyncio.create_task(fetch(opened[1], nars[1]))
        staying = [asyncio.create_task(fetch(opened[2], nars[2])) for _ in range(2)]
        assert (await _queued(opened[1], nars[1])).is_waiting
        assert (await _queued(opened[2], nars[2])).is_waiting
        await leave(leaving, staying[0])
        nars[0].gate.set()
        await asyncio.gather(running, staying[1])
        assert [nar.dump_count() for nar in nars] == [1, 0, 1]

    async def test_what_runs_is_given_up_when_nobody_follows_it(self, storage: Storage, tmp_path: Path) -> None:
        nar = file_nar(tmp_path, "nar", 20 * LARGE)
        async with compressed(nar, storage) as source:
            nar.gate.clear()
            leaving = asyncio.create_task(fetch(source, nar))
            await asyncio.to_thread(nar.half.wait)
            await leave(leaving)
            one = source._intake._flights[key_of(nar.url)]
            async with asyncio.timeout(30):
                while not one.is_over:  # noqa: ASYNC110  # no event tells
                    await asyncio.sleep(0.01)
            nar.gate.set()
            await asyncio.wait([one.task])
            assert await storage.metadata(key_of(nar.url)) is None
            assert list((tmp_path / "storage/growing").iterdir()) == []
            assert source.counters.failures.value == 0
            assert await fetch(source, nar)
        assert (nar.dump_count(), nar.taken) == (2, 0)

    async def test_what_is_nearly_done_is_done(
        self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writing, "_NEARLY_DONE", 0.4)
        nar = file_nar(tmp_path, "nar")
        async with compressed(nar, storage) as source:
            nar.gate.clear()
            leaving = asyncio.create_task(fetch(source, nar))
            await asyncio.to_thread(nar.half.wait)
            await leave(leaving)
            await asyncio.sleep(0.2)  # ten times as long as it would be borne otherwise
            nar.gate.set()
            await source._intake.idle()
            assert await storage.metadata(key_of(nar.url)) is not None
        assert nar.dump_count() == 1

    async def test_a_client_that_resumes_in_time_finds_it_running(
        self, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(flight, "_ABANDONED_SECONDS", 0.5)
        nar = file_nar(tmp_path, "nar")
        async with compressed(nar, storage) as source:
            nar.gate.clear()
            found = await source.nar(nar.url)
            assert found is not None
            assert found.whole is not None
            await asyncio.to_thread(nar.half.wait)
            found.release()
            resumed = asyncio.ensure_future(found.whole())
            await asyncio.sleep(1)  # twice as long as it would be borne otherwise
            nar.gate.set()
            whole = await resumed
            assert whole is not None
            whole.release()
        assert nar.dump_count() == 1

    async def test_a_client_of_another_process_keeps_it_going(self, storage: Storage, tmp_path: Path) -> None:
        nar = file_nar(tmp_path, "nar")
        async with (
            storage_in(tmp_path / "storage") as elsewhere,
            compressed(nar, storage) as source,
            compressed(nar, elsewhere) as other,
        ):
            nar.gate.clear()
            leaving = asyncio.create_task(fetch(source, nar))
            await asyncio.to_thread(nar.half.wait)
            found = await other.nar(nar.url)
            assert found is not None
            await leave(leaving)
            await asyncio.sleep(0.2)  # ten times as long as it would be borne otherwise
            nar.gate.set()
            with found:
                assert await read_all(found.pieces(0, None))
        assert nar.dump_count() == 1


async def test_a_file_of_which_a_client_has_the_last_byte_is_kept_when_the_server_stops(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given up: a small file is sent out of memory, before it is written."""
    finish, is_stopping = FileWriter.finish, threading.Event()

    def finish_later(self: FileWriter) -> SpooledFile:
        assert is_stopping.wait(60)
        return finish(self)

    nar = file_nar(tmp_path, "small", 1000)
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(compressed(nar, storage))
        with monkeypatch.context() as patch:
            patch.setattr(ingest, "_KEEP_SECONDS", 60.0)
            patch.setattr(FileWriter, "finish", finish_later)
            assert await fetch(source, nar)
            stopping = asyncio.create_task(stack.pop_all().aclose())
            for _ in range(10):
                await asyncio.sleep(0)
            is_stopping.set()
            await stopping
    async with compressed(nar, storage) as again:
        found = await again.nar(nar.url, Asker("one", begins=False))
        assert found is not None
        with found:
            assert found.size is not None
    assert nar.dump_count() == 1


def test_a_worker_that_stops_waits_for_its_files_no_longer_than_its_supervisor_waits_for_it() -> None:
    """Two waits of four seconds, for what was fetched and for what was compressed, ended with a killed worker."""
    assert 4 * ingest._KEEP_SECONDS < KILL_GRACE


async def test_what_is_kept_holds_no_compressor_any_more(storage: Storage, tmp_path: Path) -> None:
    """A worker was 38 MiB larger after six NARs, until Python looked for cycles."""
    nar = file_nar(tmp_path, "nar")
    gc.collect()
    gc.disable()
    try:
        async with compressed(nar, storage) as source:
            assert await source.keep(nar.url)
            await source._intake.idle()
            # The thread that was the last to use it lets go of it after it has told the loop so.
            await eventually(lambda: not any(isinstance(one, NarCheck) for one in gc.get_objects()))
    finally:
        gc.enable()


class Upload:
    """A file that a client sends, in an `Incoming` and its `Producer`: nothing is known of the NAR in it."""

    size = None

    def __init__(self, parts: Sequence[bytes], threads: Threads, observed: "hashlib._Hash") -> None:
        self.room = sum(map(len, parts))
        self.lane = Lane(threads, Turns(4), gives_up=False)
        self.checked: NarCheck | None = None
        self.failures: list[HarmoniaError] = []
        self.observed = observed
        self._parts = list(parts)

    async def wanted(self) -> "Upload":
        return self

    async def open(self) -> "Upload":
        return self

    def check(self) -> NarCheck:
        class Observer:
            def update(_, data: bytes) -> None:  # noqa: N805
                self.observed.update(data)

            def finish(_) -> None:  # noqa: N805
                self.observed.update(b"whole")

        self.checked = NarCheck(None, "xz", observers=[Observer()], bounds=NarBounds(nar_size=LARGE))
        return self.checked

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self._parts.pop(0) if self._parts else b""

    async def pour(self, take: Take, threads: Executor) -> bool:
        data = await self.read()
        if data:
            await in_thread(threads, take, data)
        return bool(data)

    def close(self) -> None:
        pass

    def fault(self, error: FormatError) -> HarmoniaError:
        return error

    async def failed(self, error: HarmoniaError) -> None:
        self.failures.append(error)

    async def kept(self) -> None:
        pass


class TestUploads:
    """What a client pushes comes in like anything else, before anything is claimed of the NAR in it."""

    @pytest.fixture
    def threads(self) -> Threads:
        return Threads(Pool.PUSH, 2)

    async def test_its_key_is_reserved_before_its_bytes_are_kept(self, storage: Storage, threads: Threads) -> None:
        """What is garbage under the key is deleted later: with it would go the bytes that had just come."""
        file = lzma.compress(random.Random(1).randbytes(1000))
        key = BlobKey.parse("nar/one.nar.xz")
        kept_before: list[bool] = []

        async def reserve(reserved: BlobKey) -> None:
            assert reserved == key
            kept_before.append(await storage.metadata(key) is not None)

        async with Intake(storage, reserve) as intake:
            assert await intake.keep(key, Upload([file], threads, hashlib.sha256()).wanted)
        assert kept_before == [False]
        assert await storage.metadata(key) is not None
        await threads.aclose()

    async def test_everything_is_known_of_it_when_it_is_kept(self, storage: Storage, threads: Threads) -> None:
        nar = random.Random(1).randbytes(300_000) + bytes(300_000)
        made = encoder("xz")
        file = bytes(made.compress(nar)) + made.flush()
        key = BlobKey.parse(f"nar/{hashlib.sha256(file).hexdigest()}.nar.xz")
        with threads:
            async with Intake(storage) as intake:
                upload = Upload(
                    [file[start : start + 1000] for start in range(0, len(file), 1000)], threads, hashlib.sha256()
                )
                assert await intake.keep(key, upload.wanted)
                found = await intake.open(key, upload.wanted, CompressedCounters())
                assert isinstance(found, Download)
                with found:
                    assert await read_all(found.pieces(0, None)) == file
        assert upload.checked is not None
        checked = upload.checked.checked
        assert checked.nar_hash.digest == hashlib.sha256(nar).digest()
        assert checked.file_hash.digest == hashlib.sha256(file).digest()
        assert (checked.nar_size, checked.file_size) == (len(nar), len(file))
        assert upload.observed.digest() == hashlib.sha256(nar + b"whole").digest()

    @pytest.mark.parametrize("cut", [0, 1, 1000])
    async def test_one_that_is_cut_or_too_large_is_not_kept(
        self, storage: Storage, threads: Threads, tmp_path: Path, cut: int
    ) -> None:
        made = encoder("xz")
        file = bytes(made.compress(bytes(LARGE + (not cut)))) + made.flush()
        with threads:
            async with Intake(storage) as intake:
                upload = Upload([file[: len(file) - cut]], threads, hashlib.sha256())
                with pytest.raises(FormatError):
                    await intake.keep(BlobKey.parse("nar/a.nar.xz"), upload.wanted)
        assert len(upload.failures) == 1
        assert await storage.metadata(BlobKey.parse("nar/a.nar.xz")) is None
        assert list((tmp_path / "storage/growing").iterdir()) == []
