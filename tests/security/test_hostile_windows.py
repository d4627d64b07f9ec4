"""Upstreams whose files want as much memory as a format allows, in every download at once.

What decompressing may take was bounded for each file, and by the number of files: 544 MiB in each worker.
"""

import asyncio
import http.client
import lzma
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

import pytest
from blob_readers import read_all
from fault_upstream import KEY, Connection, FaultUpstream, Package, Speak, body, package
from mirrors import fetch, mirror_of, settle
from msgspec.structs import replace
from server import Server
from serving import Served
from waiting import eventually
from watched import memory_of
from zstd_library import zstd

from harmonia_py.contents.memory import BUDGET_BYTES, MIB, Memory, Share
from harmonia_py.errors import Overloaded
from harmonia_py.nix.narinfo import NarUrl

# The window is wider than the usual ones, and the NAR fills it.
NAR_BYTES: Final = 30 * MIB


@lru_cache
def wide(number: int, compression: str = "zstd", *, size: int = NAR_BYTES, window_log: int = 27) -> Package:
    """A NAR whose file wants a window of 2 to the power of `window_log`, and says no size in its header."""
    one = package(number, nar=number.to_bytes(8, "little") + bytes(size - 8), compression="none")
    if compression == "zstd":
        compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
        file = compressor.compress(one.nar) + compressor.flush()
    else:
        file = lzma.compress(one.nar, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << window_log, "preset": 0}])
    return replace(one, file=file, compression=compression)


def withheld(file: bytes, until: asyncio.Event) -> Speak:
    """The file, but for its last byte, which comes later."""

    async def speak(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(file) + file[:-1])
        await until.wait()
        await connection.send(file[-1:])

    return speak


@asynccontextmanager
async def upstream_of(*packages: Package) -> AsyncIterator[tuple[FaultUpstream, list[asyncio.Event]]]:
    """The upstream, and for each package an event before which the last byte of its file does not come."""
    events = [asyncio.Event() for _ in packages]
    async with FaultUpstream() as upstream:
        for one, event in zip(packages, events, strict=True):
            upstream.serve(one)
            upstream.answers[f"/{one.path}"] = withheld(one.file, event)
        yield upstream, events


def memory_for_one(longest_wait: float = 60.0) -> Memory:
    """Room for one wide window and a few usual ones."""
    return Memory(60 * MIB, 20 * MIB, longest_wait)


async def occupy(memory: Memory, size: int) -> list[Share]:
    """Small shares of so many bytes together."""
    shares = []
    for start in range(0, size, 10 * MIB):
        shares.append(memory.share())
        await shares[-1].grow(min(10 * MIB, size - start))
    return shares


@pytest.mark.parametrize("directory", ["kept", None])
@pytest.mark.parametrize("offered", ["as it comes", "re-coded"])
@pytest.mark.parametrize("compression", ["zstd", "xz"])
async def test_a_wide_window_waits_for_another_one_and_is_right_then(
    tmp_path: Path, compression: str, offered: str, directory: str | None
) -> None:
    first, second = wide(1, compression), wide(2, compression)
    memory = memory_for_one()

    def url(one: Package) -> NarUrl:
        made = compression if offered == "as it comes" else {"zstd": "xz", "xz": "zstd"}[compression]
        return NarUrl(one.hash_part, one.path_info.nar_hash, made)

    async with (
        upstream_of(first, second) as (upstream, (end_first, end_second)),
        mirror_of(upstream, directory=tmp_path / directory if directory else None, memory=memory) as mirror,
    ):
        end_second.set()
        going = asyncio.create_task(fetch(mirror, url(first)))
        await eventually(lambda: memory.taken > 30 * MIB, "the first has its window")
        behind = asyncio.create_task(fetch(mirror, url(second)))
        await eventually(lambda: upstream.count(second.path) == 1, "the second is open")
        await asyncio.sleep(0)
        assert not behind.done()
        assert memory.taken <= 60 * MIB
        end_first.set()
        for one, task in ((first, going), (second, behind)):
            file = await task
            assert file is not None
            if offered == "as it comes":
                assert file == one.file
            else:
                assert (zstd.decompress if compression == "xz" else lzma.decompress)(file) == one.nar
        await settle(mirror)
        assert memory.taken == 0


async def test_usual_windows_pass_by_wide_ones_that_wait(tmp_path: Path) -> None:
    first, second, usual = wide(1), wide(2), package(3, compression="xz")
    memory = memory_for_one()
    async with (
        upstream_of(first, second) as (upstream, events),
        mirror_of(upstream, directory=tmp_path / "kept", memory=memory) as mirror,
    ):
        upstream.serve(usual)
        waiting = [asyncio.create_task(fetch(mirror, one)) for one in (first, second)]
        await eventually(lambda: memory.taken > 30 * MIB, "one has its window")
        assert await fetch(mirror, usual) == usual.file
        for event in events:
            event.set()
        assert await asyncio.gather(*waiting) == [first.file, second.file]


async def test_a_download_that_waits_too_long_is_503_with_retry_after_and_nobody_is_to_blame(tmp_path: Path) -> None:
    """Whether its window is too wide or there is no memory at all: its answer has not begun."""
    first, second = wide(1), wide(2)
    memory = memory_for_one(longest_wait=0.1)
    async with (
        upstream_of(first, second) as (upstream, (end_first, end_second)),
        mirror_of(upstream, directory=tmp_path / "kept", memory=memory) as mirror,
        Served(mirror) as served,  # type: ignore[arg-type]  # a source like any other
    ):
        going = asyncio.create_task(fetch(mirror, first))
        await eventually(lambda: memory.taken > 30 * MIB, "the first has its window")
        refused = await served.get(f"/{second.our_url}")
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) > 0
        rest = await occupy(memory, 60 * MIB - memory.taken)
        before = upstream.count(second.path)
        refused = await served.get(f"/{second.our_url}")
        assert refused.status == 503
        assert upstream.count(second.path) == before  # no connection is opened to wait on
        for share in rest:
            share.close()
        end_first.set()
        end_second.set()
        assert await going == first.file
        # The upstream is asked again at once: nothing is held against it, nor against its file.
        assert (await served.get(f"/{second.our_url}")).body == second.file


async def test_a_second_stream_in_a_file_waits_as_well(tmp_path: Path) -> None:
    """Only the first one shows its window before the answer begins."""
    half = wide(1)
    usual = package(4, compression="zstd", size=100_000)
    both = replace(package(5, nar=usual.nar + half.nar, compression="none"), compression="zstd")
    both = replace(both, file=usual.file + half.file)
    memory = memory_for_one()
    async with FaultUpstream() as upstream, mirror_of(upstream, directory=tmp_path, memory=memory) as mirror:
        upstream.serve(both)
        held = memory.share()
        await held.grow(40 * MIB)
        download = await mirror.nar(both.our_url)
        assert download is not None
        with download:
            reading = asyncio.create_task(read_all(download.pieces(0, download.size)))
            await eventually(lambda: upstream.count(both.path) and memory.taken == 40 * MIB, "it waits")
            held.close()
            assert await reading == both.file
        await settle(mirror)
        assert memory.taken == 0


async def test_clients_that_leave_take_their_places_with_them(tmp_path: Path) -> None:
    one = wide(1)
    memory = memory_for_one()
    async with FaultUpstream() as upstream, mirror_of(upstream, directory=tmp_path, memory=memory) as mirror:
        upstream.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text)
        upstream.answers[f"/{one.path}"] = body(one.file)
        held = await occupy(memory, 60 * MIB)
        waiting = asyncio.create_task(mirror.nar(one.our_url))
        await eventually(lambda: memory._waiting_small or memory._waiting_large, "it waits")
        waiting.cancel()
        await asyncio.wait([waiting])
        with pytest.raises(Overloaded):
            await _refused(memory)
        for share in held:
            share.close()
    assert memory.taken == 0


async def _refused(memory: Memory) -> None:
    memory.longest_wait = 0.05
    await memory.share().grow(2 * MIB)


DOWNLOADS: Final = 32
# Buffers of the server, and what the allocator keeps.
MARGIN_BYTES: Final = 64 * MIB
# For so long an upstream withholds the end of each file; without a budget all of them have their windows then.
HELD_SECONDS: Final = 1.5


@contextmanager
def peak_of(process: int) -> Iterator[list[int]]:
    """How much more memory `process` has in the block than before, at most."""
    before, ended = memory_of(process), threading.Event()
    peak = [0]

    def sample() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], memory_of(process) - before)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow  # half a gigabyte is compressed, and read again
async def test_all_downloads_of_a_worker_together_stay_within_the_budget(tmp_path: Path) -> None:
    """The real server; two files with the widest window, and the others with the widest that is usual."""
    packages = [wide(number, size=140 * MIB) for number in range(2)]
    packages += [wide(number, size=9 * MIB, window_log=23) for number in range(2, DOWNLOADS)]

    def slow(file: bytes) -> Speak:
        async def speak(connection: Connection) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(file) + file[:-1])
            await asyncio.sleep(HELD_SECONDS)
            await connection.send(file[-1:])

        return speak

    async with FaultUpstream() as upstream:
        for one in packages:
            upstream.serve(one)
            upstream.answers[f"/{one.path}"] = slow(one.file)
        settings = {
            "workers": 1,
            "daemon_socket": "/nowhere/socket",
            "real_nix_store": "/nowhere/store",
            "mirror": {"min_free": 0},
            "upstream": [{"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}],
        }
        await asyncio.to_thread(_ask_all, tmp_path, settings, packages)


def _ask_all(root: Path, settings: dict[str, object], packages: list[Package]) -> None:
    def download(server: Server, one: Package) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
            client.request("GET", f"/{one.our_url}")
            response = client.getresponse()
            assert (response.status, response.read()) == (200, one.file)

    with Server(root, os.environ, settings) as server, ThreadPoolExecutor(len(packages)) as clients:
        [worker] = server.processes()[1:]
        server.get(f"/{packages[0].hash_part}.narinfo")
        began = time.monotonic()
        with peak_of(worker) as peak:
            for done in [clients.submit(download, server, one) for one in packages]:
                done.result()
        print(f"{peak[0] / MIB:.0f} MiB more at most, in {time.monotonic() - began:.1f} s")
        assert peak[0] < BUDGET_BYTES + MARGIN_BYTES
