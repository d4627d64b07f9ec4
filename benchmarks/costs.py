"""What a server needs: time to start, memory, the first compression, and what others notice of it."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks import client
from benchmarks.bench import Bench, Case, Goal, Sample, require
from benchmarks.closure import TEMPORARY_PREFIX
from benchmarks.processes import Watch
from benchmarks.servers import Contender, Setting

DOWNLOADS_IN_FLIGHT = 50
COMPARED_LEVEL = 3
_MB = 1e6
_SETTLE_SECONDS = 1.0  # workers that are still starting would be counted without what they import
_PACE_SECONDS = 0.002  # a client that asks now and then, not one that competes for the processor
_MAX_PACED_REQUESTS = 20_000


def _own(bench: Bench) -> list[Contender]:
    return [contender for contender in bench.contenders if contender.restarts]


def start(bench: Bench) -> Iterator[Sample]:
    """From exec to the first 200."""
    case = Case("start", "from exec to the first 200", "s", goal=Goal(0.5, None))
    for _ in bench.rounds():
        for contender in _own(bench):
            with bench.running(contender, Setting("zstd", bench.workers)) as server:
                assert server.started_seconds is not None
                yield Sample(case, server.name, server.started_seconds)


def memory(bench: Bench) -> Iterator[Sample]:
    """Memory (PSS of the whole process tree) when idle, for each further worker, and for many slow downloads."""
    one = Case("memory", "one idle worker", "MB", goal=Goal(60, None))
    further = Case("memory", "each further worker", "MB", goal=Goal(15, None))
    flight = Case("memory", f"{DOWNLOADS_IN_FLIGHT} downloads in flight, identity", "MB more", goal=Goal(40, None))
    flight_zstd = Case("memory", f"{DOWNLOADS_IN_FLIGHT} downloads in flight, zstd", "MB more", goal=Goal(40, None))
    for _ in bench.rounds():
        for contender in _own(bench):
            sizes = {workers: _idle(bench, contender, workers) for workers in (1, 3)}
            yield Sample(one, contender.name, sizes[1])
            yield Sample(further, contender.name, (sizes[3] - sizes[1]) / 2)
            for case, form in ((flight, "none"), (flight_zstd, "zstd")):
                more = _in_flight(bench, contender, form)
                if more is not None:
                    yield Sample(case, contender.name, more)


def _idle(bench: Bench, contender: Contender, workers: int) -> float:
    with bench.running(contender, Setting("zstd", workers)) as server:
        assert server.tree is not None
        time.sleep(_SETTLE_SECONDS)
        return server.tree.pss() / _MB


def _in_flight(bench: Bench, contender: Contender, form: str) -> float | None:
    """Megabytes more than idle while clients have begun a download and do not read on."""
    with ExitStack() as stack:
        server = stack.enter_context(bench.running(contender, Setting(form, bench.workers)))
        target = bench.resolve(server, form)
        if target is None:
            return None
        assert server.tree is not None
        nar = bench.nar_of(target, bench.closure.big)
        bench.client(client.drain_all, server.address, [nar], 1)
        time.sleep(_SETTLE_SECONDS)
        idle = server.tree.pss()
        for _ in range(DOWNLOADS_IN_FLIGHT):
            stack.enter_context(client.Connection(server.address)).begin(nar)
        time.sleep(_SETTLE_SECONDS)
        return (server.tree.pss() - idle) / _MB


def first(bench: Bench) -> Iterator[Sample]:
    """The first download as zstd, which compresses, beside the `zstd` command on the same NAR."""
    name = f"zstd -{COMPARED_LEVEL} -T1"
    case = Case("first", "first download as zstd, 1 connection", "MB/s", more_is_better=True, goal=Goal(0.9, name))
    contenders = [contender for contender in _own(bench) if contender.name != "nginx"]
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=bench.closure.directory) as directory:
        nar = Path(directory, "big.nar")
        store = bench.closure.store
        with nar.open("wb") as output:
            command = [require("nix-store"), "--dump", str(store.real_store / bench.closure.big)]
            subprocess.run(command, stdout=output, env=store.environment(), check=True, timeout=600)
        size = nar.stat().st_size
        for _ in bench.rounds():
            for threads in dict.fromkeys((1, os.cpu_count() or 1)):
                seconds = _time_zstd(nar, threads)
                yield Sample(case, f"zstd -{COMPARED_LEVEL} -T{threads}", size / seconds / _MB)
            for contender in contenders:
                with bench.running(contender, Setting("zstd", bench.workers)) as server:
                    target = bench.resolve(server, "zstd")
                    if target is None:
                        continue
                    sample = bench.time_downloads(case, target, [bench.nar_of(target, bench.closure.big)], 1)
                    speed = size / sample.value / _MB
                    yield Sample(case, sample.server, speed, sample.cpu_seconds, sample.peak_pss)


def _time_zstd(nar: Path, threads: int) -> float:
    command = [require("zstd"), f"-{COMPARED_LEVEL}", f"-T{threads}", "--quiet", "--stdout", str(nar)]
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=600)
    return time.perf_counter() - start


def busy(bench: Bench) -> Iterator[Sample]:
    """What a client that asks for warm narinfos notices of a first download that compresses."""
    median = Case("busy", "warm narinfo during a first download, p50", "ms")
    tail = Case("busy", "warm narinfo during a first download, p99", "ms", goal=Goal(5, None))
    for _ in bench.rounds():
        for contender in _own(bench):
            with bench.running(contender, Setting("zstd", bench.workers)) as server, ThreadPoolExecutor(1) as pool:
                target = bench.resolve(server, "zstd")
                if target is None:
                    continue
                nar = bench.nar_of(target, bench.closure.big)
                with Watch(server.tree) as watch:
                    download = pool.submit(bench.client, client.drain_all, server.address, [nar], 1)
                    times = _paced(server.address, target.narinfos, download)
                if len(times) < 100:
                    bench.say(f"{server.name}: the download was over after {len(times)} requests: no tail to speak of")
                yield Sample(median, server.name, _percentile(times, 50), watch.cpu_seconds, watch.peak_pss)
                yield Sample(tail, server.name, _percentile(times, 99))


def _paced(address: client.Address, narinfos: Sequence[str], until: Future[tuple[float, int]]) -> list[float]:
    """Milliseconds that each request took, one at a time, while the download runs."""
    times = []
    with client.Connection(address) as connection:
        for number in range(_MAX_PACED_REQUESTS):
            begin = time.perf_counter()
            connection.get(narinfos[number % len(narinfos)])
            times.append((time.perf_counter() - begin) * 1000)
            if until.done():
                break
            time.sleep(_PACE_SECONDS)
    until.result()
    return times


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]
