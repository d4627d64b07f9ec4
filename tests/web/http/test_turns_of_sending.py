"""What one client can take up of the threads and the memory that send downloads."""

import asyncio
import gc
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from serving import PATH, FakeSource, Served
from waiting import eventually
from zstd_library import zstd

from harmonia_py.cache.source import Piece
from harmonia_py.web.http import pump
from harmonia_py.web.http.coding import Coding
from harmonia_py.web.http.pump import Pump, Turn
from harmonia_py.web.http.transfer import MAX_CODERS, making_rest
from harmonia_py.web.state import ServingSettings

NAR = f"/nar/{PATH.hash_part}.nar"
HEADERS = b"Host: x\r\nAccept-Encoding: zstd\r\n\r\n"


def compressors() -> int:
    gc.collect()
    return sum(isinstance(one, zstd.ZstdCompressor) for one in gc.get_objects())


def test_a_turn_ends_also_when_nothing_comes_out() -> None:
    """Turns were counted in bytes sent, so what compresses well held all threads, for 46 seconds."""
    zeros = itertools.repeat(bytes(256 * 1024), 20_000)  # five gigabytes, of which five hundred kilobytes leave
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        # What leaves are many small pieces, and each takes a kilobyte of the socket's memory.
        reader = threading.Thread(target=lambda: all(iter(lambda: theirs.recv(65_536), b"")), daemon=True)
        reader.start()
        began = time.thread_time()  # what other processes do meanwhile is no part of the turn
        outcome = Pump(ours, Coding().pieces("zstd", iter(zeros)), chunked=True).run()
        took = time.thread_time() - began
        ours.shutdown(socket.SHUT_WR)
        reader.join()  # before its socket closes
    assert isinstance(outcome, Turn)
    assert took < 20 * pump.TURN_SECONDS


def test_a_coding_gives_way_after_every_piece_that_goes_in() -> None:
    pieces = Coding().pieces("zstd", iter([bytes(100_000)] * 10))
    assert len(list(pieces)) == 11


async def test_coders_are_bounded_and_what_is_beyond_that_is_as_it_is() -> None:
    """Every client that stood still held a compressor: 4.4 MiB, or 85 at level 19, and there was no bound."""
    # What does not compress, so that a client that reads nothing stops its coder.
    nar = os.urandom(4 * 1024 * 1024)
    # What other tests have left is not looked through again and again: that took seconds of the loop of this test.
    gc.collect()
    gc.freeze()
    before = compressors()
    async with Served(FakeSource(nar_bytes=nar)) as served:
        clients = [await served.connect(receive_buffer=4096) for _ in range(MAX_CODERS + 8)]
        for _, writer in clients:
            writer.write(f"GET {NAR} HTTP/1.1\r\n".encode() + HEADERS)
        heads = [(await reader.readuntil(b"\r\n\r\n")).lower() for reader, _ in clients]
        coded = [b"content-encoding: zstd" in head for head in heads]
        # One client, by its address: it has a part of them.
        assert 0 < sum(coded) < MAX_CODERS
        assert all(b"vary: accept-encoding" in head for head in heads)
        assert all(
            b"content-length: 4194304" in head for head, is_coded in zip(heads, coded, strict=True) if not is_coded
        )
        await eventually(lambda: 0 < compressors() <= before + sum(coded))
        for _, writer in clients:
            writer.transport.abort()
        # Fewer, when those of an earlier test have gone meanwhile.
        await eventually(lambda: compressors() <= before)
        # What they held is free again.
        again = await served.get(NAR, {"Accept-Encoding": "zstd"})
        assert again.headers["Content-Encoding"] == "zstd"
        assert zstd.decompress(again.body) == nar


async def test_one_client_leaves_threads_to_the_others() -> None:
    """A client with more downloads than there are threads held them all: every other client waited."""
    running = 0
    most = 0

    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        nonlocal running, most
        for _ in range(5):
            running += 1
            most = max(most, running)
            time.sleep(0.02)  # the disk
            running -= 1
            yield bytes(100_000)

    source = FakeSource(nar_bytes=bytes(500_000), pieces=pieces)
    async with Served(source, settings=ServingSettings(coding=Coding(nars=False))) as served:
        answers = await asyncio.gather(*(served.get(NAR) for _ in range(24)))
    assert {(answer.status, len(answer.body)) for answer in answers} == {(200, 500_000)}
    assert most <= 8


@pytest.mark.parametrize(
    ("workers", "cores", "rest"),
    [(1, 1, 3.0), (4, 4, 3.0), (4, 16, 3.0), (4, 2, 7.0), (4, 1, 15.0)],
)
def test_a_client_has_a_quarter_of_the_cores_in_all_workers_together(workers: int, cores: int, rest: float) -> None:
    """With four workers on two cores one address that asked for listings had a whole core, a quarter of each worker."""
    assert making_rest(workers, cores) == rest
