"""Downloads under clients that lag, leave, stall or pipeline, and sources that fail: no wrong byte, and no leak."""

import asyncio
import contextlib
import gc
import logging
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from blockbuster import blockbuster_ctx
from serving import DRV_OUTPUT, LOG_NAME, PATH, TIME_LIMIT, FakeSource, Served, read_answer, take_slowly
from waiting import eventually

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.errors import StorageError, StorePathChanged

TARGET: Final = f"/nar/{PATH.hash_part}.nar"
# What no socket buffer holds: the pump has to wait for the client.
BIG: Final = 12 * 1024 * 1024
Pieces = Callable[[int, int | None], Iterator[Piece]]


def get(target: str = TARGET, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


@pytest.fixture
def data() -> bytes:
    return os.urandom(BIG)


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "file"
    file.write_bytes(data)
    return file


def of_file(file: Path, *, slice_size: int = BIG) -> Pieces:
    """Pieces of every kind: slices of an open file, bytes, nothing, and pauses in between."""

    def pieces(start: int, stop: int | None) -> Iterator[Piece]:
        end = file.stat().st_size if stop is None else stop
        with file.open("rb") as stream:
            while start < end:
                size = min(slice_size, end - start)
                yield FileSlice(stream.fileno(), start, size)
                start += size
                yield b""
                yield Pause(0.001)
                if start < end:
                    yield os.pread(stream.fileno(), min(7, end - start), start)
                    start += 7

    return pieces


@pytest.mark.parametrize("unknown_size", [False, True])
@pytest.mark.parametrize("slice_size", [BIG, 1_000_003])
async def test_pieces_of_every_kind_arrive_in_order_and_nothing_blocks_the_loop(
    file: Path, data: bytes, slice_size: int, *, unknown_size: bool
) -> None:
    source = FakeSource(nar_bytes=data, unknown_size=unknown_size, pieces=of_file(file, slice_size=slice_size))
    with blockbuster_ctx("harmonia_py"):
        async with Served(source) as served:
            answer = await served.get(TARGET)
            assert answer.body == data
            assert (answer.headers["Transfer-Encoding"] == "chunked") == unknown_size
            if not unknown_size:
                middle = await served.get(TARGET, {"Range": "bytes=100000-5000000"})
                assert middle.body == data[100_000:5_000_001]
            for target in (f"/{PATH.hash_part}.narinfo", f"/{PATH.hash_part}.ls", f"/log/{LOG_NAME}"):
                assert (await served.get(target)).status == 200
            assert (await served.get(f"/realisations/{DRV_OUTPUT}.doi")).status == 200
    assert source.opened == source.closed
    assert source.opened == source.released


async def test_pipelined_answers_never_overtake_each_other_while_the_client_lags(data: bytes) -> None:
    """The pump writes to the socket itself: what the transport still holds must have left before."""
    source = FakeSource(nar_bytes=data, listing_bytes=b"[" + b"1," * 20_000 + b"1]")
    listing = f"/{PATH.hash_part}.ls"
    async with Served(source) as served, asyncio.timeout(TIME_LIMIT):
        reader, writer = await served.connect(receive_buffer=4096)
        targets = [*([listing] * 8), TARGET, "/health", TARGET, listing, "/health"]
        writer.write(b"".join(get(target) for target in targets))
        # The first answers are more than the kernel takes, so the headers of the NAR have to wait behind them.
        await eventually(lambda: len(source.asked) >= 2)
        for target in targets:
            answer = await read_answer(reader)
            assert answer.status == 200
            expected = {listing: source.listing_bytes, TARGET: data, "/health": b"OK\n"}[target]
            assert answer.body == expected
        writer.close()


async def test_a_connection_is_used_again_after_a_download(file: Path, data: bytes) -> None:
    for unknown_size in (False, True):
        source = FakeSource(nar_bytes=data, unknown_size=unknown_size, pieces=of_file(file))
        async with Served(source) as served, asyncio.timeout(TIME_LIMIT):
            reader, writer = await served.connect()
            for _ in range(5):
                writer.write(get())
                assert (await read_answer(reader)).body == data
                writer.write(get("/health"))
                assert (await read_answer(reader)).body == b"OK\n"
            writer.close()


def failing(after: int, error: Exception) -> Pieces:
    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        sent = 0
        while sent < after:
            yield b"n" * 65536
            sent += 65536
        raise error

    return pieces


@pytest.mark.parametrize("after", [0, 65536, 1_000_000])
@pytest.mark.parametrize("unknown_size", [False, True])
@pytest.mark.parametrize("error", [StorePathChanged("vanished"), StorageError("disk"), ValueError("bug")])
async def test_a_source_that_fails_midway_never_ends_cleanly(
    after: int, error: Exception, caplog: pytest.LogCaptureFixture, *, unknown_size: bool
) -> None:
    source = FakeSource(nar_bytes=b"n" * BIG, unknown_size=unknown_size, pieces=failing(after, error))
    async with Served(source) as served:
        reader, writer = await served.connect()
        writer.write(get())
        with pytest.raises((EOFError, ConnectionError)):
            await read_answer(reader)
        writer.close()
        await eventually(lambda: source.closed == source.opened == source.released == 1)
        (line,) = served.access_lines()
        assert f'"GET {TARGET}" 200 ' in line
        # One connection was cut; the server goes on.
        source.pieces = None
        assert (await served.get("/health")).status == 200
    (logged,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert str(error) in caplog.text
    assert TARGET in logged.getMessage()


@pytest.mark.parametrize("after", [1_000_000, BIG])
async def test_before_http_1_1_the_end_of_the_connection_is_the_end_only_when_it_is(after: int) -> None:
    """Without chunks nothing but a reset tells half an answer from a whole one; a proxy kept the half."""
    pieces = failing(after, StorePathChanged("vanished")) if after < BIG else None
    source = FakeSource(nar_bytes=b"n" * BIG, unknown_size=True, pieces=pieces)
    async with Served(source) as served, asyncio.timeout(TIME_LIMIT):
        reader, writer = await served.connect()
        writer.write(f"GET {TARGET} HTTP/1.0\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        if after < BIG:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert await reader.read() == b"n" * BIG
        writer.close()


async def test_a_small_download_that_pauses_costs_no_thread_and_no_processor() -> None:
    """A thread asked again and again, without a pause, for as long as an upstream took to answer."""
    asked = 0
    go_on = asyncio.Event()

    def pieces(start: int, stop: int | None) -> Iterator[Piece]:
        nonlocal asked
        while not go_on.is_set():
            asked += 1
            yield Pause(0.01)
        yield b"n" * 100

    source = FakeSource(nar_bytes=b"n" * 100, pieces=pieces)
    async with Served(source) as served:
        answer = asyncio.create_task(served.get(TARGET))
        await eventually(lambda: asked > 3)
        before, used, began = asked, time.process_time(), time.monotonic()
        await asyncio.sleep(0.2)  # the time in which nothing shall happen
        used, seconds = time.process_time() - used, time.monotonic() - began
        assert used < seconds / 2
        assert asked - before <= 2 + 100 * seconds
        go_on.set()
        assert (await answer).body == b"n" * 100
        await eventually(lambda: source.closed == source.released == 1)


async def test_a_file_that_became_shorter_is_never_padded_or_ended(file: Path, data: bytes) -> None:
    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        with file.open("rb") as stream:
            os.truncate(file, BIG // 2)
            yield FileSlice(stream.fileno(), 0, BIG)

    source = FakeSource(nar_bytes=data, pieces=pieces)
    async with Served(source) as served:
        reader, writer = await served.connect()
        writer.write(get())
        with pytest.raises((EOFError, ConnectionError)):
            await read_answer(reader)
        writer.close()


async def test_a_file_that_cannot_be_read_is_not_blamed_on_the_client(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        # It opens, but its bytes cannot be sent.
        with Path("/proc/self/mem").open("rb") as stream:
            yield FileSlice(stream.fileno(), 0, BIG)

    source = FakeSource(nar_bytes=data, pieces=pieces)
    async with Served(source) as served:
        reader, writer = await served.connect()
        writer.write(get())
        with pytest.raises((EOFError, ConnectionError)):
            await read_answer(reader)
        writer.close()
        await eventually(lambda: "a file cannot be read while it is being sent" in caplog.text)


async def test_a_client_that_takes_nothing_is_cut(data: bytes) -> None:
    source = FakeSource(nar_bytes=data)
    async with Served(source, stall_timeout=0.2) as served:
        _, writer = await served.connect(receive_buffer=4096)
        writer.write(get())
        await eventually(lambda: source.released == 1 and source.closed == 1)
        assert len(served.access_lines()) == 1
        writer.close()


async def test_a_client_that_asks_and_never_reads_is_cut_and_not_answered_without_end() -> None:
    source = FakeSource(listing_bytes=b"x" * 60_000)
    async with Served(source, stall_timeout=0.2) as served:
        before = len(asyncio.all_tasks())
        _, writer = await served.connect(receive_buffer=4096)
        writer.write(get(f"/{PATH.hash_part}.ls") * 2000)
        await eventually(lambda: len(source.asked) > 1)
        await eventually(lambda: len(asyncio.all_tasks()) == before)
        # What the kernel takes for it, and one buffer.
        assert len(source.asked) < 500
        writer.close()


async def test_a_client_that_connects_and_says_nothing_or_half_a_request_is_closed() -> None:
    async with Served(FakeSource(), keepalive_timeout=0.2) as served, asyncio.timeout(TIME_LIMIT):
        for begin in (b"", b"GET /heal", get("/health") + b"GET /heal"):
            reader, writer = await served.connect()
            writer.write(begin)
            await reader.read()
            assert reader.at_eof()
            writer.close()


async def test_a_client_that_is_slow_but_takes_something_is_not_cut(data: bytes) -> None:
    """A socket is writable when a third of its output has left: until then a client that took some was cut.

    It takes some many times in each time limit, for two of them, and far less than a third of the kernel's four MiB.
    """
    source = FakeSource(nar_bytes=data)
    async with Served(source, stall_timeout=1.0) as served, asyncio.timeout(TIME_LIMIT):
        reader, writer = await served.connect(receive_buffer=65536)
        writer.write(get())
        await reader.readuntil(b"\r\n\r\n")
        received = await take_slowly(reader, seconds=2.5)
        assert len(received) < BIG // 12
        received += await reader.readexactly(BIG - len(received))
        assert received == data
        writer.close()


async def test_a_client_that_leaves_ends_a_download_that_pauses(data: bytes) -> None:
    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        yield b"begin"
        while True:
            yield Pause(0.01)

    source = FakeSource(nar_bytes=data, pieces=pieces)
    async with Served(source) as served:
        reader, writer = await served.connect()
        writer.write(get())
        await reader.readuntil(b"begin")
        writer.close()
        await eventually(lambda: source.closed == source.released == 1)


def descriptors() -> int:
    """How many there are, without the one of what workers share: it stays for as long as its server is remembered."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += "memfd:" not in os.fspath(link.readlink())
    return count


async def leave_midway(served: Served, read: int) -> None:
    reader, writer = await served.connect(receive_buffer=4096)
    writer.write(get())
    if read:
        await reader.readexactly(read)
    writer.transport.abort()


@pytest.mark.parametrize("unknown_size", [False, True])
async def test_a_thousand_clients_that_leave_midway_leave_nothing_behind(
    file: Path, data: bytes, *, unknown_size: bool
) -> None:
    source = FakeSource(nar_bytes=data, unknown_size=unknown_size, pieces=of_file(file, slice_size=1_000_000))
    gc.collect()  # what other tests have left open would count as of before
    async with Served(source) as served:
        # Before any client: the connections of the first ones end some time after they have left.
        tasks, files = len(asyncio.all_tasks()), descriptors()
        # Threads are started when they are first needed, and stay.
        await asyncio.gather(*(leave_midway(served, 1000) for _ in range(40)))
        await eventually(lambda: source.closed == source.opened)
        threads = threading.active_count()
        for _ in range(50):
            await asyncio.gather(*(leave_midway(served, 0 if client % 2 else 1000) for client in range(20)))
        await eventually(lambda: source.closed == source.opened, "every generator is closed")
        await eventually(lambda: len(asyncio.all_tasks()) == tasks, "no leak of tasks")
        # What other tests have left open may be closed meanwhile.
        await eventually(lambda: descriptors() <= files, "no leak of descriptors")
        assert threading.active_count() <= threads + 16
        assert source.released >= source.opened
        assert (await served.get(TARGET)).body == data


async def test_the_end_of_the_server_cuts_what_runs_and_closes_everything(file: Path, data: bytes) -> None:
    source = FakeSource(nar_bytes=data, pieces=of_file(file))
    before = descriptors()
    async with Served(source, shutdown_timeout=0.1) as served:
        connections = [await served.connect(receive_buffer=4096) for _ in range(5)]
        for _, writer in connections:
            writer.write(get())
        await eventually(lambda: source.opened == 5)
    await eventually(lambda: source.closed == source.released == 5)
    assert len(served.access_lines()) == 5
    for _, writer in connections:
        writer.close()
    await eventually(lambda: descriptors() <= before)


async def test_an_answer_at_the_end_of_the_server_is_finished(file: Path, data: bytes) -> None:
    source = FakeSource(nar_bytes=data, pieces=of_file(file))
    served = Served(source, shutdown_timeout=TIME_LIMIT)
    async with served:
        reader, writer = await served.connect(receive_buffer=4096)
        writer.write(get())
        await eventually(lambda: source.opened == 1)
        ending = asyncio.create_task(served.__aexit__())
        assert (await read_answer(reader)).body == data
        assert await reader.read() == b""
        await ending
        writer.close()


class TestTls:
    @pytest.fixture(scope="class")
    @classmethod
    def contexts(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        root = tmp_path_factory.mktemp("tls")
        options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        command = ["openssl", "req", *options.split(), "-keyout", "key.pem", "-out", "cert.pem"]
        subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=TIME_LIMIT)
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(root / "cert.pem", root / "key.pem")
        client = ssl.create_default_context(cafile=str(root / "cert.pem"))
        client.check_hostname = False
        return server, client

    @pytest.mark.parametrize("unknown_size", [False, True])
    async def test_downloads_arrive_whole_and_are_counted(
        self, file: Path, data: bytes, contexts: tuple[ssl.SSLContext, ssl.SSLContext], *, unknown_size: bool
    ) -> None:
        source = FakeSource(nar_bytes=data, unknown_size=unknown_size, pieces=of_file(file, slice_size=3_000_000))
        with blockbuster_ctx("harmonia_py"):
            async with Served(source, tls=contexts[0]) as served, asyncio.timeout(TIME_LIMIT):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=contexts[1])
                for _ in range(2):
                    writer.write(get())
                    assert (await read_answer(reader)).body == data
                writer.close()
                await writer.wait_closed()
                assert all(int(line.split()[-2]) > BIG for line in served.access_lines())
        await eventually(lambda: source.closed == source.released == 2)

    async def test_a_source_that_fails_midway_never_ends_cleanly(
        self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        for unknown_size in (False, True):
            pieces = failing(1_000_000, StorePathChanged("vanished"))
            source = FakeSource(nar_bytes=b"n" * BIG, unknown_size=unknown_size, pieces=pieces)
            async with Served(source, tls=contexts[0]) as served:
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=contexts[1])
                writer.write(get())
                with pytest.raises((EOFError, OSError)):
                    await read_answer(reader)
                writer.transport.abort()
                await eventually(lambda source=source: source.closed == source.released == 1)  # type: ignore[misc]

    async def test_a_client_that_takes_nothing_is_cut(
        self, data: bytes, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        source = FakeSource(nar_bytes=data)
        async with Served(source, tls=contexts[0], stall_timeout=0.2) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=contexts[1], limit=1024)
            writer.write(get())
            await eventually(lambda: source.closed == source.released == 1)
            writer.transport.abort()
