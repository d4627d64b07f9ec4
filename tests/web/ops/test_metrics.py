"""`/metrics`: that it says what happened, from the start, for all workers, and agrees with the access log."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab
from prometheus_client.parser import text_string_to_metric_families
from server import Server, settings_of
from serving import ABSENT, PATH, FakeSource, Served
from waiting import eventually

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.errors import StorePathChanged
from harmonia_py.metrics import families
from harmonia_py.metrics.exposition import parse_metrics
from harmonia_py.web import http_metrics
from harmonia_py.web.routes import attic_routes, push_routes, routes, token_routes

NARINFO = f"/{PATH.hash_part}.narinfo"
NAR = f"/nar/{PATH.hash_part}.nar"
MIB = 1024 * 1024


class Reading:
    """What `/metrics` said at one time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values = {(one.name, frozenset(one.labels.items())): one.value for one in parse_metrics(text)}

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        wanted = frozenset(labels.items())
        found = [value for (other, has), value in self.values.items() if other == name and wanted <= has]
        assert found, f"no {name} with {labels}"
        return sum(found)

    def requests(self, method: str, path: str, status: int) -> float:
        return self("harmonia_http_requests_total", method=method, path=path, status=str(status))

    def others(self) -> float:
        """Requests for something else than this."""
        name = "harmonia_http_requests_total"
        return self(name) - self(name, path="metrics")


async def read(served: Served, count: int = 0) -> Reading:
    """What it says once it has counted so many; an answer has arrived a moment before it is counted."""
    async with asyncio.timeout(30):
        while True:
            reading = Reading((await served.get("/metrics")).body.decode())
            if reading.others() >= count:
                return reading


def read_server(server: Server) -> Reading:
    return Reading(server.get("/metrics").body.decode())


def read_until(server: Server, path: str, count: int) -> Reading:
    """What it says once it has counted so many; an answer has arrived a moment before it is counted."""
    deadline = time.monotonic() + 30
    while (reading := read_server(server)).requests("GET", path, 200) < count:
        assert time.monotonic() < deadline, reading.requests("GET", path, 200)
    assert reading.requests("GET", path, 200) == count
    return reading


def test_every_route_has_its_statuses() -> None:
    table = [*routes(), *push_routes(), *token_routes(), *attic_routes()]
    assert {route.name for route in table} == set(http_metrics.STATUSES)


async def test_every_kind_of_request_is_counted_by_the_name_of_its_route() -> None:
    async with Served(FakeSource()) as served:
        for target in (NARINFO, NARINFO, NAR, "/nix-cache-info", "/nowhere", f"/{ABSENT}.narinfo", "/nar/x"):
            await served.get(target)
        await served.get(NAR, {"Range": "bytes=0-9"})
        await served.request("HEAD", NARINFO)
        await served.request("POST", NARINFO)
        await served.request("PUT", "/nowhere")
        assert (await served.send(b"no HTTP\r\n\r\n")).startswith(b"HTTP/1.1 400")
        reading = await read(served, 12)
    assert reading.requests("GET", "narinfo", 200) == 2
    assert reading.requests("GET", "narinfo", 404) == 1
    assert reading.requests("GET", "nar", 200) == 1
    assert reading.requests("GET", "nar", 206) == 1
    assert reading.requests("GET", "nar", 404) == 1
    assert reading.requests("GET", "nix-cache-info", 200) == 1
    assert reading.requests("GET", "other", 404) == 1
    assert reading.requests("HEAD", "narinfo", 200) == 1
    assert reading("harmonia_http_requests_total", method="PUT") == 1
    assert reading("harmonia_http_requests_total", method="POST") == 1
    assert reading("harmonia_http_requests_total", method="other") == 1  # what is no HTTP has none
    assert reading("harmonia_http_requests_total", status="400") == 1
    assert reading.others() == 12


async def test_the_access_log_and_the_figures_agree() -> None:
    """Ready answers, those of the framework, errors, ranges and cut downloads: each is one line and counted once."""
    nar = os.urandom(300_000)
    async with Served(FakeSource(nar_bytes=nar)) as served:
        for target in (NARINFO, NARINFO, NARINFO, NAR, "/nowhere", f"/{PATH.hash_part}.ls", "/health"):
            await served.get(target)
        await served.get(NAR, {"Range": "bytes=5-200000"})
        served.source.pieces = _broken
        with pytest.raises(asyncio.IncompleteReadError):
            await served.get(NAR)
        reading = await read(served, 9)
        lines = [line.split('"') for line in served.access_lines() if "/metrics" not in line]
    statuses = Counter(line[2].split()[0] for line in lines)
    metrics = reading.requests("GET", "metrics", 200)
    statuses["200"] += int(metrics)
    assert {status: reading("harmonia_http_requests_total", status=status) for status in statuses} == statuses
    size = sum(int(line[2].split()[1]) for line in lines)
    sent = reading("harmonia_http_sent_bytes_total") - reading("harmonia_http_sent_bytes_total", kind="metrics")
    assert sent == size > 500_000
    assert reading("harmonia_http_request_duration_seconds_count") == len(lines) + metrics


def _broken(_start: int, _stop: int | None) -> Iterator[Piece]:
    yield b"x" * 1000
    raise StorePathChanged("as a test wants it")


async def test_what_is_asked_for_makes_no_new_series() -> None:
    """A scanner that asks for a million URLs must not cost a million series."""
    async with Served(FakeSource()) as served:

        async def ask(number: int) -> None:
            await served.request(f"M{number}", f"/{number}")
            await served.get(f"/nar/{number}.nar.{number}")
            await served.get(f"/{number}/{number}?{number}={number}")

        await ask(0)
        before = await read(served, 3)
        for number in range(1, 50):
            await ask(number)
        after = await read(served, 150)
    of_reading = {key for key in after.values if ("path", "metrics") in key[1]}
    assert before.values.keys() - of_reading == after.values.keys() - of_reading


async def test_every_series_is_there_from_the_start() -> None:
    async with Served(FakeSource()) as served:
        reading = await read(served)
    for path, statuses in http_metrics.STATUSES.items():
        for status in statuses:
            for method in http_metrics.METHODS_OF.get(path, http_metrics.READING):
                assert reading.requests(method, path, status) == 0
    for reason in ("client", "source", "shutdown", "fault"):
        assert reading("harmonia_transfers_aborted_total", reason=reason) == 0


async def test_a_download_is_in_flight_and_its_bytes_count_before_it_ends() -> None:
    go_on = asyncio.Event()

    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        yield bytes(MIB)
        while not go_on.is_set():
            yield Pause(0.01)
        yield bytes(MIB)

    async with Served(FakeSource(nar_bytes=bytes(2 * MIB), pieces=pieces)) as served:
        download = asyncio.create_task(served.get(NAR))
        async with asyncio.timeout(30):
            while (reading := await read(served))("harmonia_http_sent_bytes_total", kind="nar") < MIB:
                pass
        assert reading("harmonia_transfers_in_flight") == 1
        assert reading.requests("GET", "nar", 200) == 0
        go_on.set()
        assert (await download).body == bytes(2 * MIB)
        reading = await read(served, 1)
    assert reading("harmonia_transfers_in_flight") == 0
    assert reading.requests("GET", "nar", 200) == 1
    assert 2 * MIB < reading("harmonia_http_sent_bytes_total", kind="nar") < 2 * MIB + 1000


async def test_the_time_to_the_first_byte_is_not_that_to_the_last() -> None:
    def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
        yield bytes(MIB)
        for _ in range(10):
            yield Pause(0.03)
        yield bytes(MIB)

    async with Served(FakeSource(nar_bytes=bytes(2 * MIB), pieces=pieces)) as served:
        await served.get(NAR)
        reading = await read(served, 1)
    name = "harmonia_http_time_to_first_byte_seconds"
    assert reading(f"{name}_count", path="nar") == 1
    whole = reading("harmonia_http_request_duration_seconds_sum", path="nar", status="200")
    assert whole >= 0.3
    assert reading(f"{name}_sum", path="nar") < whole - 0.25


async def test_who_leaves_and_what_breaks_are_told_apart() -> None:
    async with Served(FakeSource(nar_bytes=bytes(64 * MIB))) as served:
        reader, writer = await served.connect(receive_buffer=4096)
        writer.write(f"GET {NAR} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await reader.readexactly(100)
        writer.transport.abort()
        await eventually(lambda: served.source.released == 1)
        served.source.pieces = _broken
        with pytest.raises(asyncio.IncompleteReadError):
            await served.get(NAR)
        reading = await read(served, 2)
    assert reading("harmonia_transfers_aborted_total", reason="client") == 1
    assert reading("harmonia_transfers_aborted_total", reason="source") == 1
    assert reading("harmonia_transfers_aborted_total") == 2


async def test_connections_are_counted_while_they_are_open() -> None:
    async with Served(FakeSource()) as served:
        idle = [await served.connect() for _ in range(3)]
        reading = await read(served)
        assert reading("harmonia_http_connections") == 4  # and the one that asks
        for _, writer in idle:
            writer.close()


async def test_a_scraper_gets_it_compressed() -> None:
    async with Served(FakeSource()) as served:
        answer = await served.get("/metrics", {"Accept-Encoding": "gzip"})
        plain = await served.get("/metrics")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(answer.body) < len(plain.body) / 5


@pytest.mark.slow
async def test_promtool_has_nothing_to_say_against_it() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool, of Debian's package prometheus, is not installed")
    async with Served(FakeSource()) as served:
        await served.get(NARINFO)
        text = (await read(served)).text
    command = ("promtool", "check", "metrics")
    done = await asyncio.to_thread(
        subprocess.run, command, check=False, input=text, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestWorkers:
    @pytest.fixture
    def server(self, daemon: Lab, tmp_path: Path) -> Iterator[Server]:
        with Server(tmp_path, daemon.env, settings_of(daemon, daemon.secret_key("test-1"))) as server:
            yield server

    def test_every_worker_says_the_same_of_all(self, server: Server, daemon: Lab) -> None:
        path = f"/{daemon.closure.top.hash_part}.narinfo"
        for _ in range(40):
            assert server.get(path).status == 200
        read_until(server, "narinfo", 40)
        readings = [read_server(server) for _ in range(8)]
        assert {reading.requests("GET", "narinfo", 200) for reading in readings} == {40}
        assert readings[0]("harmonia_workers") == 2
        assert readings[0]("harmonia_daemon_connections_created_total", status="success") >= 1
        assert readings[0]("harmonia_daemon_connection_acquire_duration_seconds_count", outcome="created") >= 1

    def test_every_family_is_there_from_the_start_but_for_those_of_what_is_not_there(self, server: Server) -> None:
        server.get("/version")
        text = read_until(server, "version", 1).text
        named = {family.name: family for family in text_string_to_metric_families(text)}
        for family in families.FAMILIES:
            theirs = named[family.name.removesuffix("_total")]
            assert theirs.type == family.kind
            pushing = ("pushed_", "swept_", "collected_", "deleted_", "kept_", "pin", "garbage_", "last_collection_")
            of_each = ("caches_kept_", "caches_max_")
            chunking = ("chunked_", "packs", "pack_", "deduplicat", "last_deduplication_")
            name = family.name.removeprefix("harmonia_")
            absent = name.startswith(("upstream_", "mirror_", "hot_", *chunking, *pushing, *of_each))
            assert bool(theirs.samples) != absent, family.name

    def test_compressed_files_are_counted(self, server: Server, daemon: Lab) -> None:
        narinfo = server.get(f"/{daemon.closure.top.hash_part}.narinfo").body.decode()
        url = next(line.removeprefix("URL: ") for line in narinfo.splitlines() if line.startswith("URL: "))
        for _ in range(3):
            assert server.get(f"/{url}").status == 200
        reading = read_until(server, "nar", 3)
        assert reading("harmonia_compressed_downloads_total", result="miss") == 1
        assert reading("harmonia_http_sent_bytes_total", kind="nar.zst") > 0

    def test_a_killed_worker_takes_no_count_with_it(self, server: Server) -> None:
        for _ in range(20):
            server.get("/version")
        before = read_until(server, "version", 20)
        for process in server.processes()[1:]:
            os.kill(process, signal.SIGKILL)
        for _ in range(10):
            server.get("/version")
        after = read_until(server, "version", 30)
        assert after("process_cpu_seconds_total") >= before("process_cpu_seconds_total")
        deadline = time.monotonic() + 30
        while read_server(server)("harmonia_http_connections") > 1:  # the end of one may not have been noticed
            assert time.monotonic() < deadline
