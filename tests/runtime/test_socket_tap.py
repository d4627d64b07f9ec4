"""Large bodies that threads read straight from their sockets."""

import asyncio
import errno
import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from certificates import make_certificate
from fault_upstream import Connection, FaultUpstream, Speak, body, file_with_ranges, package
from mirrors import fetch, kept, leftovers, mirror_of, settle

from harmonia_py.errors import HarmoniaError, UpstreamUnreachable
from harmonia_py.mirror.upstream import Body, Tap
from harmonia_py.upstream.client import HttpUpstream, Place

DATA = random.Random(1).randbytes(6_000_000)


@pytest.fixture
async def server() -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream() as server:
        yield server


@asynccontextmanager
async def opened(server: FaultUpstream, answer: Speak, stall_timeout: float = 5.0) -> AsyncIterator[Body]:
    server.answers["/x"] = answer
    place = Place(url=server.url, stall_timeout=stall_timeout)
    async with HttpUpstream(place, name="up", priority=1, public_keys=()) as client:
        found = await client.open("x")
        assert found is not None
        with found:
            yield found


async def until_read(found: Body, count: int) -> None:
    """Wait until the framework has so much of a body, or wants no more for now."""
    content = found.read.__self__._response.content  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while content.total_bytes < count and not content._protocol._reading_paused:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0)


async def drain(tap: Tap) -> bytes:
    data = bytearray()
    while await asyncio.to_thread(tap.run, data.extend):
        await tap.wait()
    return bytes(data)


async def test_where_no_descriptor_is_left_nothing_is_taken_over_and_nothing_lost(
    server: FaultUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended a download that could have gone on."""

    def no_more(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with opened(server, body(DATA)) as found:
        data = await found.read()
        monkeypatch.setattr(os, "dup", no_more)
        assert found.tap() is None
        while more := await found.read():
            data += more
    assert data == DATA


async def test_it_gives_what_was_not_read_and_no_more(server: FaultUpstream) -> None:
    async with opened(server, body(DATA)) as found:
        first = await found.read()
        tap = found.tap()
        assert tap is not None
        assert first + await drain(tap) == DATA


async def test_it_gives_what_the_framework_had_read_before(server: FaultUpstream) -> None:
    """The framework stops reading when its buffer is full, and begins again when it has been emptied."""
    async with opened(server, body(DATA)) as found:
        first = await found.read()
        await until_read(found, len(DATA))
        tap = found.tap()
        assert tap is not None
        assert first + await drain(tap) == DATA


async def test_a_file_that_came_at_once_needs_no_socket(server: FaultUpstream) -> None:
    data = DATA[: 1024 * 1024 + 1]
    async with opened(server, body(data)) as found:
        await until_read(found, len(data))
        tap = found.tap()
        assert tap is None or await drain(tap) == data
        assert tap is not None or b"".join([part async for part in parts_of(found)]) == data


async def parts_of(found: Body) -> AsyncIterator[bytes]:
    while part := await found.read():
        yield part


async def chunked(connection: Connection) -> None:
    await connection.respond(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DATA), DATA), Transfer_Encoding="chunked")


@pytest.mark.parametrize("answer", [chunked, body(DATA[:1_000_000])], ids=["chunked", "small"])
async def test_what_has_no_length_or_is_small_is_left_to_the_framework(server: FaultUpstream, answer: Speak) -> None:
    async with opened(server, answer) as found:
        assert await found.read()
        assert found.tap() is None


async def test_nothing_is_taken_over_from_tls(tmp_path: Path) -> None:
    pair = make_certificate(tmp_path, "one")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA[:1000])
        await reader.read()  # until the client leaves
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.chain, pair.key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        place = Place(url=url, tls=pair.client())
        async with HttpUpstream(place, name="up", priority=1, public_keys=()) as client:
            found = await client.open("x")
            assert found is not None
            with found:
                assert await found.read() == DATA[:1000]
                assert found.tap() is None


async def begins_and_hangs(connection: Connection) -> None:
    await connection.respond(DATA[:2_000_000], Content_Length=str(len(DATA)))
    await asyncio.sleep(3600)


async def test_a_socket_that_stands_still_is_given_up(server: FaultUpstream) -> None:
    async with opened(server, begins_and_hangs, stall_timeout=0.2) as found:
        await found.read()
        tap = found.tap()
        assert tap is not None
        with pytest.raises(UpstreamUnreachable):
            await drain(tap)


@pytest.mark.parametrize("compression", ["none", "xz", "zstd"])
async def test_a_large_download_that_is_cut_is_resumed_where_it_was(
    server: FaultUpstream, tmp_path: Path, compression: str
) -> None:
    one = package(nar=DATA, compression=compression)
    server.serve(one)
    server.answers[f"/{one.path}"] = file_with_ranges(one.file, cuts=2, cut_after=2_000_000)
    async with mirror_of(server, directory=tmp_path) as mirror:
        assert await fetch(mirror, one) == one.file
        await settle(mirror)
        assert kept(tmp_path)
    _, *rest = [request.headers.get("range") for request in server.requests if "/nar/" in request.path]
    starts = [int((part or "").removeprefix("bytes=").removesuffix("-")) for part in rest]
    assert len(starts) == 2
    assert 1_000_000 < starts[0] <= 2_000_000 < starts[1] <= 4_000_000


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("position", [10, 3_000_000, len(DATA) - 1])
async def test_a_large_file_with_one_wrong_byte_never_ends(
    server: FaultUpstream, tmp_path: Path, *, position: int, keeps: bool
) -> None:
    one = package(nar=DATA, compression="none")
    server.serve(one)
    wrong = bytearray(DATA)
    wrong[position] ^= 1
    server.answers[f"/{one.path}"] = body(bytes(wrong))
    async with mirror_of(server, directory=tmp_path if keeps else None) as mirror:
        with pytest.raises(HarmoniaError):
            await fetch(mirror, one)
        await settle(mirror)
        if keeps:
            assert kept(tmp_path) == leftovers(tmp_path) == []


async def test_a_download_that_is_given_up_midway_leaves_nothing(server: FaultUpstream, tmp_path: Path) -> None:
    one = package(nar=DATA, compression="none")
    server.serve(one)
    server.answers[f"/{one.path}"] = begins_and_hangs
    async with mirror_of(server, directory=tmp_path) as mirror:
        download = await mirror.nar(one.our_url)
        assert download is not None
        download.release()
    assert kept(tmp_path) == leftovers(tmp_path) == []
