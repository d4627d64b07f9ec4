"""Upstreams that send a little now and then: nothing waits for them for days. Those that are only slow are borne."""

import asyncio
from pathlib import Path

import pytest
from fault_upstream import Connection, FaultUpstream, file_with_ranges, package
from mirrors import fetch, kept, leftovers, mirror_of, settle

from harmonia_py.errors import HarmoniaError

# Threads read what is large from its socket, and what is small comes through the framework.
SIZES = [100_000, 3_000_000]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonia_py.mirror.stream._PACE_SECONDS", 0.3)
    monkeypatch.setattr("harmonia_py.mirror.stream._PACE_BYTES", 1000)
    monkeypatch.setattr("harmonia_py.mirror.stream._REOPEN_SECONDS", 0.3)
    monkeypatch.setattr("harmonia_py.mirror.stream._RESUME_SECONDS", 0.01)


async def drip(connection: Connection, data: bytes) -> None:
    for byte in data:
        await connection.send(bytes([byte]))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("size", SIZES)
async def test_a_download_that_drips_is_given_up(
    upstream: FaultUpstream, tmp_path: Path, *, size: int, keeps: bool
) -> None:
    one = package(size=size, compression="none")
    upstream.serve(one)

    async def speak(connection: Connection) -> None:
        await connection.respond(one.file[:10_000], Content_Length=str(size), ETag='"tag"')
        await drip(connection, one.file[10_000:])

    upstream.answers[f"/{one.path}"] = speak
    async with asyncio.timeout(60), mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
        with pytest.raises(HarmoniaError):
            await fetch(mirror, one)
        await settle(mirror)
        assert not mirror._intake._tasks
        if keeps:
            assert kept(tmp_path) == leftovers(tmp_path) == []
    assert len([request for request in upstream.requests if "range" in request.headers]) > 0


@pytest.mark.parametrize("size", SIZES)
async def test_an_answer_that_never_begins_does_not_hold_a_download_that_was_cut(
    upstream: FaultUpstream, tmp_path: Path, size: int
) -> None:
    """Each line of headers is a sign of life, so that a connection which stands still was never noticed."""
    one = package(size=size, compression="none")
    upstream.serve(one)

    async def speak(connection: Connection) -> None:
        if "range" in connection.request.headers:
            await drip(connection, b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)
        await connection.respond(one.file[:50_000], Content_Length=str(size), ETag='"tag"')
        connection.cut()

    upstream.answers[f"/{one.path}"] = speak
    async with asyncio.timeout(60), mirror_of(upstream, directory=tmp_path) as mirror:
        with pytest.raises(HarmoniaError):
            await fetch(mirror, one)
        await settle(mirror)
        assert not mirror._intake._tasks


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("size", SIZES)
async def test_what_is_slow_and_steady_comes_and_takes_as_long_as_it_takes(
    upstream: FaultUpstream, tmp_path: Path, *, size: int, keeps: bool
) -> None:
    one = package(size=size, compression="none")
    upstream.serve(one)

    async def speak(connection: Connection) -> None:
        await connection.respond(one.file[:10_000], Content_Length=str(size))
        step = size // 40
        for start in range(10_000, size, step):
            await connection.send(one.file[start : start + step])
            await asyncio.sleep(0.03)

    upstream.answers[f"/{one.path}"] = speak
    async with mirror_of(upstream, directory=tmp_path if keeps else None, stall_timeout=1.0) as mirror:
        assert await fetch(mirror, one) == one.file
    assert upstream.count("/nar/") == 1


async def test_a_download_that_drips_once_is_resumed(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = package(size=3_000_000, compression="none")
    upstream.serve(one)
    whole = file_with_ranges(one.file)

    async def speak(connection: Connection) -> None:
        if "range" in connection.request.headers:
            await whole(connection)
            return
        await connection.respond(one.file[:10_000], Content_Length=str(len(one.file)), ETag='"tag"')
        await drip(connection, one.file[10_000:])

    upstream.answers[f"/{one.path}"] = speak
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await fetch(mirror, one) == one.file
    assert upstream.count("/nar/") == 2
