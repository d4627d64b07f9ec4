"""The compressed NAR: made once, verified, kept."""

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from blob_readers import read_all
from msgspec.structs import replace
from nar_source import FileNar, compressed, compressing, kept_in, storage_in
from zstd_library import zstd

from harmonia_py.cache.source import AT_ONCE, Download, FileSlice, NotAtOnce
from harmonia_py.contents.blobs import IN_USE
from harmonia_py.contents.compressed import CompressedNars, NarMismatch
from harmonia_py.contents.encoders import Zstd
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.kept_files import key_of
from harmonia_py.contents.storage import Storage
from harmonia_py.contents.writing import SMALL_BYTES
from harmonia_py.errors import HarmoniaError, StorageError, StorePathChanged
from harmonia_py.nix.hashes import Hash

LARGE: Final = 3_000_000
TESTS: Final = Path(__file__).parent.parent


def write_nar(path: Path, size: int) -> Path:
    # Half of it compresses and half does not, so that the output comes bit by bit.
    noise = random.Random(size)
    path.write_bytes(b"".join(noise.randbytes(500) + bytes(500) for _ in range(size // 1000 + 1))[:size])
    return path


@pytest.fixture
def nar(tmp_path: Path) -> FileNar:
    return FileNar(write_nar(tmp_path / "nar", LARGE))


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with storage_in(tmp_path / "blobs") as storage:
        yield storage


@pytest.fixture
async def source(nar: FileNar, storage: Storage) -> AsyncIterator[CompressedNars]:
    async with compressed(nar, storage) as source:
        yield source
    assert nar.taken == 0


async def download(source: CompressedNars, nar: FileNar) -> Download:
    found = await source.nar(nar.url)
    assert found is not None
    return found


async def fetch(source: CompressedNars, nar: FileNar) -> bytes:
    with await download(source, nar) as found:
        return await read_all(found.pieces(0, None))


async def fetch_kept(source: CompressedNars, nar: FileNar) -> bytes:
    """What is kept, once the job has ended: the file is there a moment earlier, and followed until then."""
    assert await source.keep(nar.url)
    await source._intake.settled(key_of(nar.url))
    with await download(source, nar) as found:
        assert found.size is not None
        return await read_all(found.pieces(0, None))


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in (directory / "growing").iterdir()]


@pytest.mark.parametrize("size", [120, SMALL_BYTES, SMALL_BYTES + 1, LARGE, 20_000_000])
@pytest.mark.parametrize("threads", [0, 1, 2])
async def test_the_first_download_and_every_later_one_are_the_same_zstd_file(
    tmp_path: Path, storage: Storage, size: int, threads: int
) -> None:
    file = write_nar(tmp_path / "nar", size)
    nar = FileNar(file)
    async with compressed(nar, storage, compressing(threads=threads)) as source:
        first = await fetch(source, nar)
        assert zstd.decompress(first) == file.read_bytes()
        assert await fetch_kept(source, nar) == first
        assert (source.counters.misses.value, source.counters.nar_bytes.value) == (1, size)
    assert nar.dump_count() == 1


async def test_a_kept_file_has_a_size_a_strong_etag_and_ranges_from_the_file(
    nar: FileNar, source: CompressedNars
) -> None:
    data = await fetch_kept(source, nar)
    with await download(source, nar) as found:
        assert found.size == len(data)
        assert found.etag == Hash.of(data).nix32
        assert all(isinstance(piece, FileSlice) for piece in found.pieces(0, None))
        assert await read_all(found.pieces(1000, 5000)) == data[1000:5000]


async def test_the_narinfo_learns_the_hash_of_the_file_when_it_is_known(nar: FileNar, source: CompressedNars) -> None:
    hash_part = nar.path_info.store_path.hash_part
    before = await source.narinfo(hash_part)
    assert before is not None
    assert (before.narinfo.compression, before.narinfo.url) == ("zstd", str(nar.url))
    assert (before.narinfo.file_hash, before.narinfo.file_size) == (None, None)
    data = await fetch_kept(source, nar)
    after = await source.narinfo(hash_part)
    assert after is not None
    assert (after.narinfo.file_hash, after.narinfo.file_size) == (Hash.of(data), len(data))
    assert after.narinfo.path_info == nar.path_info


async def test_the_narinfo_knows_what_another_process_has_kept(
    nar: FileNar, source: CompressedNars, tmp_path: Path
) -> None:
    async with storage_in(tmp_path / "blobs") as others, compressed(nar, others) as other:
        data = await fetch_kept(other, nar)
    found = await source.narinfo(nar.path_info.store_path.hash_part)
    assert found is not None
    assert found.narinfo.file_size == len(data)


async def test_another_hash_or_another_path_is_not_here(nar: FileNar, source: CompressedNars) -> None:
    assert await source.nar(replace(nar.url, nar_hash=Hash.of(b"another"))) is None
    assert await source.nar(replace(nar.url, nar_hash=None)) is None
    assert not await source.keep(replace(nar.url, nar_hash=Hash.of(b"another")))
    assert nar.dump_count() == 0


async def test_the_uncompressed_nar_is_still_there(nar: FileNar, source: CompressedNars) -> None:
    found = await source.nar(replace(nar.url, compression="none"))
    assert found is not None
    with found:
        assert found.size == LARGE


async def test_bytes_go_out_before_the_nar_has_been_read(nar: FileNar, source: CompressedNars) -> None:
    nar.gate.clear()
    with await download(source, nar) as found:
        assert found.size is None
        first = await read_all(found.pieces(0, 100_000))
        assert len(first) == 100_000
        nar.gate.set()
        assert (await read_all(found.pieces(0, None)))[:100_000] == first


async def test_who_was_cut_gets_the_rest_once_the_file_is_whole(nar: FileNar, source: CompressedNars) -> None:
    nar.gate.clear()
    with await download(source, nar) as found:
        first = await read_all(found.pieces(0, 100_000))
        assert found.whole is not None
        waiting = asyncio.ensure_future(found.whole())
        await asyncio.to_thread(nar.half.wait)
        assert not waiting.done()
    nar.gate.set()
    whole = await waiting
    assert whole is not None
    with whole:
        assert whole.size is not None
        assert whole.whole is None
        assert zstd.decompress(first + await read_all(whole.pieces(100_000, whole.size)))


async def test_who_was_cut_does_not_wait_for_a_file_that_is_given_up(nar: FileNar, storage: Storage) -> None:
    nar.gate.clear()
    async with (
        Intake(storage) as intake,
        kept_in(storage) as kept,
        CompressedNars(nar, intake, kept, compressing()) as source,
    ):
        with await download(source, nar) as found:
            assert found.whole is not None
            waiting = asyncio.ensure_future(found.whole())
            await asyncio.to_thread(nar.half.wait)
            closing = asyncio.create_task(source.__aexit__(None, None, None))
            await asyncio.sleep(0)  # it has begun to close
            nar.gate.set()
            assert await waiting is None
            await closing


async def test_many_clients_share_one_compression(nar: FileNar, source: CompressedNars) -> None:
    nar.gate.clear()
    running = [asyncio.create_task(fetch(source, nar)) for _ in range(30)]
    await asyncio.to_thread(nar.half.wait)
    late = [asyncio.create_task(fetch(source, nar)) for _ in range(10)]
    nar.gate.set()
    files = set(await asyncio.gather(*running, *late))
    assert [hashlib.sha256(zstd.decompress(file)).digest() for file in files] == [nar.path_info.nar_hash.digest]
    assert nar.dump_count() == 1
    assert source.counters.misses.value == 1


async def test_a_client_that_leaves_cancels_nothing(nar: FileNar, source: CompressedNars) -> None:
    nar.gate.clear()
    leaving = asyncio.create_task(fetch(source, nar))
    await asyncio.to_thread(nar.half.wait)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert nar.taken == 1  # protected as long as it is read
    nar.gate.set()
    assert zstd.decompress(await fetch_kept(source, nar)) == (nar.dumps.with_suffix("")).read_bytes()
    assert nar.dump_count() == 1


async def test_a_client_of_a_small_nar_that_leaves_cancels_nothing(tmp_path: Path, storage: Storage) -> None:
    nar = FileNar(write_nar(tmp_path / "small", 10_000))
    async with compressed(nar, storage) as source:
        nar.gate.clear()
        leaving = asyncio.create_task(fetch(source, nar))
        await asyncio.to_thread(nar.half.wait)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        nar.gate.set()
        await fetch_kept(source, nar)
    assert nar.dump_count() == 1


async def test_no_more_nars_than_allowed_are_compressed_at_once(tmp_path: Path, storage: Storage) -> None:
    nars = [FileNar(write_nar(tmp_path / f"nar{size}", size)) for size in (LARGE, LARGE + 1)]
    shared = compressing(at_once=1)
    async with compressed(nars[0], storage, shared) as first, compressed(nars[1], storage, shared) as second:
        nars[0].gate.clear()
        running = [asyncio.create_task(fetch(first, nars[0]))]
        await asyncio.to_thread(nars[0].half.wait)
        running.append(asyncio.create_task(fetch(second, nars[1])))
        for _ in range(10):  # it would have begun by then
            await storage.ask(lambda spool, _: spool.free_bytes())
        assert nars[1].dump_count() == 0
        nars[0].gate.set()
        await asyncio.gather(*running)
        assert nars[1].dump_count() == 1
        await asyncio.gather(first.keep(nars[0].url), second.keep(nars[1].url))


@pytest.mark.parametrize("size", [10_000, LARGE])
async def test_a_nar_that_is_not_what_the_store_says_is_never_finished(
    tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    file = write_nar(tmp_path / "nar", size)
    right = file.read_bytes()
    file.write_bytes(right[: size // 3] + b"!" + right[size // 3 + 1 :])
    nar = FileNar(file, replace(FileNar(file).path_info, nar_hash=Hash.of(right)))
    async with compressed(nar, storage) as source:
        with pytest.raises(HarmoniaError):
            await fetch(source, nar)
        with pytest.raises(StorePathChanged):
            await source.keep(nar.url)  # and is not tried again at once
        assert source.counters.mismatches.value == 1
        assert [record.levelno for record in caplog.records if "is damaged" in record.message] == [logging.CRITICAL]
        assert await storage.open(key_of(nar.url)) is None
        assert leftovers(tmp_path / "blobs") == []
        assert [(mark.store_path, mark.expected, mark.actual) for mark in await source.mismatches()] == [
            (nar.path_info.store_path, Hash.of(right), Hash.of(file.read_bytes()))
        ]
    file.write_bytes(right)
    async with compressed(nar, storage) as source:
        assert len(await source.mismatches()) == 1  # a restart does not forget
        assert zstd.decompress(await fetch_kept(source, nar)) == right
        assert await source.mismatches() == []  # a repair does


@pytest.mark.parametrize("difference", [-1, 1])
async def test_a_nar_of_another_size_is_a_mismatch_too(tmp_path: Path, storage: Storage, difference: int) -> None:
    file = write_nar(tmp_path / "nar", LARGE)
    right = FileNar(file).path_info
    nar = FileNar(file, replace(right, nar_size=LARGE + difference))
    async with compressed(nar, storage) as source:
        with pytest.raises(HarmoniaError):
            await fetch(source, nar)
        with contextlib.suppress(StorePathChanged):
            await source.keep(nar.url)
        assert source.counters.mismatches.value == 1


async def test_where_nothing_can_be_kept_each_download_is_compressed_and_verified(
    nar: FileNar, caplog: pytest.LogCaptureFixture
) -> None:
    async with compressed(nar, Storage()) as source:
        assert len([record for record in caplog.records if "no directory" in record.message]) == 1
        for _ in range(2):
            with await download(source, nar) as found:
                assert found.size is None
                data = await read_all(found.pieces(0, None))
            assert hashlib.sha256(zstd.decompress(data)).digest() == nar.path_info.nar_hash.digest
        assert source.counters.unkept.value == 2
        answer = await source.narinfo(nar.path_info.store_path.hash_part)
        assert answer is not None
        assert (answer.narinfo.compression, answer.narinfo.file_hash) == ("zstd", None)
        assert await source.mismatches() == []
        with pytest.raises(StorageError):
            await source.keep(nar.url)
    assert nar.taken == 0


async def test_a_wrong_nar_is_cut_also_where_nothing_can_be_kept(tmp_path: Path) -> None:
    file = write_nar(tmp_path / "nar", LARGE)
    nar = FileNar(file, replace(FileNar(file).path_info, nar_hash=Hash.of(b"another")))
    async with compressed(nar, Storage()) as source:
        with pytest.raises(NarMismatch):
            await fetch(source, nar)
        with pytest.raises(StorePathChanged):
            await fetch(source, nar)
        assert source.counters.mismatches.value == 1


async def test_when_the_directory_vanishes_downloads_go_on(
    nar: FileNar, source: CompressedNars, tmp_path: Path
) -> None:
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    assert hashlib.sha256(zstd.decompress(await fetch(source, nar))).digest() == nar.path_info.nar_hash.digest
    assert source.counters.unkept.value == 1


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A full disk, for whoever is no root: writing beyond fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_when_the_disk_is_full_midway_the_client_is_cut_and_nothing_is_left(
    nar: FileNar, source: CompressedNars, tmp_path: Path
) -> None:
    with largest_file(1_000_000), pytest.raises(StorageError):
        await fetch(source, nar)
    assert leftovers(tmp_path / "blobs") == []
    assert source.counters.failures.value == 1
    assert zstd.decompress(await fetch_kept(source, nar))


async def test_what_is_evicted_while_it_is_sent_is_sent_to_its_end(
    nar: FileNar, source: CompressedNars, storage: Storage
) -> None:
    data = await fetch_kept(source, nar)
    with await download(source, nar) as found:
        assert storage.blobs is not None
        assert [info.last_used async for info in storage.blobs.list()] == [IN_USE]
        await storage.delete(key_of(nar.url))
        assert await read_all(found.pieces(0, None)) == data
    assert await fetch(source, nar) == data
    assert nar.dump_count() == 2


async def test_shutting_down_gives_up_what_runs(nar: FileNar, storage: Storage, tmp_path: Path) -> None:
    nar.gate.clear()
    async with compressed(nar, storage) as source:
        running = asyncio.create_task(fetch(source, nar))
        await asyncio.to_thread(nar.half.wait)
        asyncio.get_running_loop().call_soon(nar.gate.set)
    with pytest.raises(StorageError):
        await running
    assert nar.taken == 0
    assert leftovers(tmp_path / "blobs") == []


def start_process(directory: Path, nar: Path, clients: int, *hold: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TESTS / "compressing_process.py"), str(directory), str(nar), str(clients), *hold]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_four_processes_with_many_clients_each_compress_once(tmp_path: Path) -> None:
    file = write_nar(tmp_path / "nar", 4 * LARGE)
    processes = [start_process(tmp_path / "blobs", file, 8) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    digests = {line for process in processes for line in process.communicate(timeout=60)[0].split()}
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert len(digests) == 1
    assert FileNar(file).dump_count() == 1
    assert leftovers(tmp_path / "blobs") == []
    (kept,) = [path for path in (tmp_path / "blobs/blobs").rglob("*") if path.is_file()]
    assert zstd.decompress(kept.read_bytes()) == file.read_bytes()
    assert {hashlib.sha256(kept.read_bytes()).hexdigest()} == digests


async def test_when_the_writing_process_is_killed_followers_are_cut_and_the_next_request_starts_anew(
    nar: FileNar, source: CompressedNars, tmp_path: Path
) -> None:
    file = nar.dumps.with_suffix("")
    process = await asyncio.to_thread(start_process, tmp_path / "blobs", file, 1, "hold")
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == "half\n"
        follower = await download(source, nar)
        assert follower.size is None
        with follower:
            reading = asyncio.create_task(read_all(follower.pieces(0, None)))
            assert await read_all(follower.pieces(0, 100_000))
            process.kill()
            with pytest.raises(StorageError):
                await reading
    assert leftovers(tmp_path / "blobs") == [key_of(nar.url)]
    assert zstd.decompress(await fetch(source, nar)) == file.read_bytes()
    assert await source.keep(nar.url)
    assert leftovers(tmp_path / "blobs") == []
    assert nar.dump_count() == 2


async def test_a_start_removes_what_a_killed_process_left_and_nothing_else(
    nar: FileNar, source: CompressedNars, tmp_path: Path
) -> None:
    other = write_nar(tmp_path / "other", LARGE + 1)
    process = await asyncio.to_thread(start_process, tmp_path / "blobs", other, 1, "hold")
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert await asyncio.to_thread(process.stdout.readline) == "half\n"
        process.kill()
    nar.gate.clear()
    running = asyncio.create_task(fetch(source, nar))
    await asyncio.to_thread(nar.half.wait)
    assert len(leftovers(tmp_path / "blobs")) == 2
    async with storage_in(tmp_path / "blobs"):
        assert leftovers(tmp_path / "blobs") == [key_of(nar.url)]  # its writer is alive
    nar.gate.set()
    await running


def test_the_settings_reach_zstd() -> None:
    settings = Zstd(level=19, threads=2, long_distance_matching=True, window_log=20)
    data = os.urandom(100_000) * 2
    compressor = settings.compressor(100 * 1024 * 1024)
    file = compressor.compress(data) + compressor.flush()
    assert zstd.decompress(file, options={zstd.DecompressionParameter.window_log_max: 20}) == data


async def test_at_once_there_is_a_kept_file_and_nothing_begins(nar: FileNar, disk_path: Path) -> None:
    async with storage_in(disk_path / "blobs") as storage, compressed(nar, storage) as source:
        with pytest.raises(NotAtOnce):
            await source.nar(nar.url, AT_ONCE)
        assert nar.dump_count() == 0
        data = await fetch_kept(source, nar)
        hits = source.counters.hits.value
        found = await source.nar(nar.url, AT_ONCE)
        assert found is not None
        with found:
            assert found.file is not None
            assert (found.size, found.etag) == (len(data), Hash.of(data).nix32)
        assert source.counters.hits.value == hits + 1
        assert await source.nar(replace(nar.url, nar_hash=Hash.of(b"another")), AT_ONCE) is None
