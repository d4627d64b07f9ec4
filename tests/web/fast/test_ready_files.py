"""Files that are ready are sent without the framework: with the same bytes, headers and log, and for every client."""

import asyncio
import errno
import os
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from serving import PATH, Answer, FakeSource, Served, read_answer, take_slowly
from waiting import eventually

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches
from harmonia_py.cache.source import UNNAMED, Asker, Download, FileSlice
from harmonia_py.errors import UpstreamUnreachable
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.web.fast import ready_file

MIB = 1024 * 1024


class FileSource(FakeSource):
    """A `FakeSource` whose NAR is an open file."""

    fd: int

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:  # noqa: ARG002  # the port's signature
        download = await super().nar(url)
        if download is None or download.size is None:
            return download
        file = FileSlice(self.fd, 0, download.size)
        return Download(
            size=download.size,
            etag=download.etag,
            pieces=lambda start, stop: iter([FileSlice(self.fd, start, (stop or file.size) - start)]),
            file=file,
            release=download.release,
        )


class EvictedSource(FileSource):
    """One whose file is gone as soon as a download has it."""

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:  # noqa: ARG002  # the port's signature
        if self.asked:
            raise UpstreamUnreachable("it was evicted, and no upstream answers")
        return await super().nar(url)


class GatedSource(FileSource):
    """One that takes its time from the second question on."""

    gate: asyncio.Event

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:  # noqa: ARG002  # the port's signature
        if self.asked:
            await self.gate.wait()
        return await super().nar(url)


def url_of(source: FakeSource) -> str:
    return f"/nar/{Hash.of(source.nar_bytes).nix32}.nar?hash={PATH.hash_part}"


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@asynccontextmanager
async def served(
    disk_path: Path, size: int, *, source_type: type[FileSource] = FileSource, **options: float
) -> AsyncIterator[Served]:
    source = source_type(nar_bytes=os.urandom(size))
    (disk_path / "nar").write_bytes(source.nar_bytes)
    source.fd = os.open(disk_path / "nar", os.O_RDONLY)
    try:
        async with Served(source, **options) as server:  # type: ignore[arg-type]  # only time-outs
            yield server
    finally:
        os.close(source.fd)
    assert source.released == source.asked.count(f"nar {url_of(source)[1:]}")


async def ready(server: Served) -> Answer:
    """The answer of the slow way, after which the file is ready."""
    answer = await server.get(url_of(server.source))
    await eventually(lambda: len(server.source.asked) == 2)
    return answer


async def test_a_download_that_its_client_does_not_read_holds_no_part_of_the_file(disk_path: Path) -> None:
    clients = 20
    async with served(disk_path, 16 * MIB) as server:
        await ready(server)
        request = f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        loop = asyncio.get_running_loop()
        tracemalloc.start()
        try:
            with ExitStack() as connections:
                for _ in range(clients):
                    client = connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                    client.setblocking(False)
                    await loop.sock_sendall(client, request)
                    assert await loop.sock_recv(client, 1)
                held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < clients * ready_file.FIRST_BYTES / 2


@pytest.mark.parametrize("size", [1, 1000, ready_file.FIRST_BYTES, ready_file.FIRST_BYTES + 1, 5 * MIB + 3])
async def test_both_ways_send_the_same(disk_path: Path, size: int) -> None:
    async with served(disk_path, size) as server:
        reader, writer = await server.connect()
        answers = []
        for _ in range(3):
            writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answers.append(await read_answer(reader))
            await eventually(lambda: len(server.source.asked) == 2)
        writer.close()
        slow, *hot = answers
        assert slow.body == server.source.nar_bytes
        for answer in hot:
            assert answer.body == slow.body
            del answer.headers["Date"]
        del slow.headers["Date"]
        assert [answer.headers.items() for answer in hot] == 2 * [slow.headers.items()]
        assert len(server.source.asked) == 2, "the framework was asked again"
        lines = server.access_lines()
        assert len({line.rpartition(" ")[0] for line in lines}) == 1, lines


async def test_a_file_arrives_also_out_of_descriptors(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that lagged behind was never served again when its socket could not be duplicated just then."""
    async with served(disk_path, 20 * MIB) as server:
        await ready(server)
        tries = 0

        def dup(_fd: int) -> int:
            nonlocal tries
            tries += 1
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "dup", dup)
        reader, writer = await server.connect(receive_buffer=4096)
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await eventually(lambda: tries > 1)
        assert (await read_answer(reader)).body == server.source.nar_bytes
        writer.close()
        # And the slow way, which writes through a duplicate as well.
        reader, writer = await server.connect(receive_buffer=4096)
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n".encode())
        assert (await read_answer(reader)).body == server.source.nar_bytes
        writer.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=5-9"},
        {"If-None-Match": "*"},
        {"Authorization": "Bearer x"},
        {"X-Unknown": "1"},
        {"Connection": "close"},
    ],
)
async def test_a_header_that_could_change_the_answer_goes_the_slow_way(
    disk_path: Path, headers: dict[str, str]
) -> None:
    async with served(disk_path, 1000) as server:
        await ready(server)
        asked = len(server.source.asked)
        answer = await server.request("GET", url_of(server.source), headers)
        assert len(server.source.asked) > asked
        expected = {"Range": 206, "If-None-Match": 304}.get(next(iter(headers)), 200)
        assert answer.status == expected


async def test_requests_that_come_before_the_file_has_left_are_answered_after_it(disk_path: Path) -> None:
    async with served(disk_path, 8 * MIB) as server:
        await ready(server)
        reader, writer = await server.connect()
        request = f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        # The socket is full by now: the rest of the file waits for this client.
        writer.write(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n" + request)
        assert await reader.readexactly(8 * MIB) == server.source.nar_bytes
        assert (await read_answer(reader)).body.startswith(b"harmonia-py")
        assert (await read_answer(reader)).body == server.source.nar_bytes
        writer.close()


async def test_a_client_that_sends_without_end_while_its_file_is_under_way_is_not_read_for_ever(
    disk_path: Path,
) -> None:
    async with served(disk_path, 8 * MIB, stall_timeout=0.5) as server:
        await ready(server)
        reader, writer = await server.connect()
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.set_write_buffer_limits(high=MIB)
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionError):
                await send_for_ever(writer)
        writer.close()


async def test_a_client_that_stands_still_is_cut(disk_path: Path) -> None:
    async with served(disk_path, 32 * MIB, stall_timeout=0.2) as server:
        await ready(server)
        reader, writer = await server.connect(receive_buffer=4096)
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await eventually(lambda: len(server.access_lines()) == 2)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await read_answer(reader)
        writer.close()


async def test_a_slow_client_that_moves_gets_it_all_beyond_every_time_limit(disk_path: Path) -> None:
    """One that took less than the third of the kernel's buffer that makes a socket writable again was cut."""
    async with served(disk_path, 12 * MIB, stall_timeout=1.0, keepalive_timeout=0.3) as server, asyncio.timeout(30):
        await ready(server)
        reader, writer = await server.connect(receive_buffer=65536)
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        received = await take_slowly(reader, seconds=3.5)
        assert time.monotonic() - began > 3.0
        assert len(received) < 4 * MIB / 3
        received += await reader.readexactly(12 * MIB - len(received))
        assert received == server.source.nar_bytes
        writer.close()


async def test_a_file_under_way_arrives_although_the_server_is_stopping(disk_path: Path) -> None:
    async with served(disk_path, 8 * MIB, shutdown_timeout=20) as server:
        await ready(server)
        reader, writer = await server.connect()
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        stopping = asyncio.create_task(server.__aexit__())
        await asyncio.sleep(0)
        assert await reader.readexactly(8 * MIB) == server.source.nar_bytes
        assert await reader.read() == b""
        await stopping
        writer.close()


async def test_clients_that_leave_midway_leave_nothing_behind(disk_path: Path) -> None:
    async with served(disk_path, 16 * MIB) as server:
        await ready(server)
        before = count_descriptors()
        for _ in range(100):
            reader, writer = await server.connect(receive_buffer=4096)
            writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()
        await eventually(lambda: len(server.access_lines()) == 101)
        await eventually(lambda: count_descriptors() <= before)


async def test_a_file_that_becomes_shorter_is_cut(disk_path: Path) -> None:
    async with served(disk_path, 4 * MIB) as server:
        await ready(server)
        os.truncate(disk_path / "nar", 3 * MIB)
        reader, writer = await server.connect()
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        with pytest.raises(asyncio.IncompleteReadError):
            await read_answer(reader)
        writer.close()


@pytest.mark.parametrize("size", [40_000, 5 * MIB + 3])
async def test_a_file_of_which_the_page_cache_has_a_part_is_sent_without_the_framework(
    disk_path: Path, size: int
) -> None:
    """Where the kernel would have begun to read ahead, a file that was in memory went the slow way for ever."""
    async with served(disk_path, size) as server:
        await ready(server)
        fd = os.open(disk_path / "nar", os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead

            def has_a_part() -> bool:
                """Whether the kernel let go of the file, which it does not while it is busy with its pages."""
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.pread(fd, 4096, 0)
                return 0 < os.preadv(fd, [bytearray(40_000)], 0, os.RWF_NOWAIT) < 40_000

            await eventually(has_a_part)
        finally:
            os.close(fd)
        reader, writer = await server.connect()
        writer.write(f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert (await read_answer(reader)).body == server.source.nar_bytes
        assert len(server.source.asked) == 2
        writer.close()


async def test_another_cache_after_a_reload_is_asked_again(disk_path: Path) -> None:
    async with served(disk_path, 1000) as server:
        await ready(server)
        server.serving.replace(Caches(server.cache))
        assert server.source.released == 2
        await server.get(url_of(server.source))
        assert len(server.source.asked) > 2


async def test_a_file_of_the_cache_before_a_reload_is_not_ready_after_it(disk_path: Path) -> None:
    async with served(disk_path, 3 * MIB, source_type=GatedSource) as server:
        assert isinstance(server.source, GatedSource)
        server.source.gate = asyncio.Event()
        assert (await server.get(url_of(server.source))).status == 200
        empty = BinaryCache(cache_info=server.cache.cache_info, sources=[], secret_keys=[])
        server.serving.replace(Caches(empty))
        server.source.gate.set()
        await eventually(lambda: server.source.released == 2)
        assert (await server.get(url_of(server.source))).status == 404


async def test_a_file_that_cannot_be_ready_is_opened_once_for_each_client(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tmpfs, ZFS and NFS do not say what the page cache has: each download opened its file once more, in vain."""

    def preadv(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "preadv", preadv)
    async with served(disk_path, 1000) as server:
        for _ in range(3):
            assert (await server.get(url_of(server.source))).body == server.source.nar_bytes
    assert len(server.source.asked) == 3


@pytest.mark.parametrize("size", [100, 3_000_000])
async def test_an_answer_is_the_only_one_also_where_its_file_cannot_be_had_a_second_time(
    disk_path: Path, size: int
) -> None:
    """Evicted meanwhile: the failure to keep the file at hand was sent as an answer of its own, behind the good one."""
    async with served(disk_path, size, source_type=EvictedSource) as server:
        reader, writer = await server.connect()
        for target in (url_of(server.source), "/version"):
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        nar, version = await read_answer(reader), await read_answer(reader)
        writer.close()
        assert (nar.status, nar.body) == (200, server.source.nar_bytes)
        assert (version.status, version.body) == (200, (await server.get("/version")).body)


async def test_a_request_in_the_body_of_another_is_no_request(disk_path: Path) -> None:
    """A client behind a proxy smuggled a request into the body of a GET: the short way took it for one of its own."""
    async with served(disk_path, 1000) as server:
        await ready(server)
        inner = f"GET {url_of(server.source)} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        reader, writer = await server.connect()
        writer.write(f"GET /version HTTP/1.1\r\nHost: a\r\nContent-Length: {len(inner)}\r\n\r\n".encode())
        assert (await read_answer(reader)).status == 200
        writer.write(inner)
        writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await read_answer(reader)).body == b"OK\n"
        writer.close()
