"""harmonia-py beside the servers that others have written: `python -m benchmarks.field`.

`HARMONIA_BIN` and `NCPS_BIN` name their binaries; a server whose binary is not given is left out, and what is held
against it says nothing then. The closure is that of `benchmarks.push`. Servers take turns within each round.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks import BenchmarkError, client, closure, load, nix_client, report, servers
from benchmarks.bench import Bench, Case, Goal, OutOfTimeError, Sample, Target, drop_from_page_cache
from benchmarks.processes import Watch
from benchmarks.push import RECIPE
from benchmarks.run import PROJECT, RESULTS
from benchmarks.servers import Contender, Server, Setting
from benchmarks.throughput import absent_narinfos

OURS: Final = report.MEASURED
HARMONIA: Final = "Harmonia"
NCPS: Final = "ncps"
NGINX: Final = "nginx"
COLUMNS: Final = (OURS, HARMONIA, NCPS, NGINX)
GOALS: Final[dict[str, tuple[Goal, ...]]] = {
    "start to the first 200": (Goal(0.2, None),),
    "memory of idle workers": (Goal(40, None),),
    "cold narinfos, 16 connections": (Goal(1, HARMONIA),),
    "warm narinfos, 32 connections": (Goal(1.2, NGINX),),
    "absent narinfos, 32 connections": (Goal(1, NGINX),),
    "warm narinfos, one after the other": (Goal(1, NGINX),),
    "NARs as they are, cold, 4 connections": (Goal(1, HARMONIA),),
    "NARs as they are, warm, 1 connection": (Goal(1, HARMONIA), Goal(1.5, NGINX)),
    "NARs as they are, warm, 4 connections": (Goal(1, HARMONIA), Goal(1.5, NGINX)),
    "NARs as they are, warm, 16 connections": (Goal(1, HARMONIA), Goal(1.5, NGINX)),
    "zstd, first download, 4 connections": (Goal(0.6, HARMONIA),),
    "zstd, warm, 1 connection": (Goal(1, NGINX),),
    "zstd, warm, 4 connections": (Goal(1, NGINX),),
    "zstd, warm, 16 connections": (Goal(1, NGINX),),
    "256 MiB as they are": (Goal(1, NGINX),),
    "256 MiB as they are, CPU": (Goal(1, NGINX),),
    "mirror, small NARs, cold, 4 connections": (Goal(1, NCPS),),
    "mirror, small NARs, warm, 1 connection": (Goal(1.2, NGINX),),
}
_CONNECTIONS: Final = (1, 4, 16)
_LOAD_SECONDS: Final = 2
_ABSENT: Final = 250_000
_SETTLE_SECONDS: Final = 1.0
_SMALL_BYTES: Final = 200_000
_MB: Final = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.field", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is measured (%(default)s)")
    parser.add_argument("--minutes", type=float, default=12, help="measure no longer than this (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each server (%(default)s)")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of %(default)s")
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=DIR", help="another version of this one")
    parser.add_argument("--output", type=Path, default=RESULTS / "field.md", help="(%(default)s)")
    options = parser.parse_args(arguments)
    begin, before = time.monotonic(), os.getloadavg()[0]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # servers are stopped on the way out
    samples: list[Sample] = []
    try:
        built = closure.prepare(RECIPE, say)
        for sample in _measure(options, built, say):
            samples.append(sample)  # noqa: PERF402 -- what came before a failure counts
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    finally:
        text = f"{format_field(samples)}\n{report.describe_machine(options.workers, before)}\n"
        print(text)
        if samples:
            options.output.write_text(text)
    return 0


@dataclass(frozen=True, slots=True)
class Run:
    """What every section needs.

    Attributes:
        bench: the closure, the rounds, and the contenders that have the store.
        mirrors: makes mirrors of the upstream at a URL.
    """

    bench: Bench
    mirrors: Callable[[str], list[Contender]]


def _measure(options: argparse.Namespace, built: closure.Closure, say: Callable[[str], None]) -> Iterator[Sample]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harmonia-bench-")))
        executor = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        socket = stack.enter_context(built.store.daemon(directory))
        trees = {OURS: str(PROJECT)} | dict(text.split("=", 1) for text in options.tree)
        copies = {name: servers.snapshot(Path(tree), directory / name) for name, tree in trees.items()}
        contenders = [servers.harmonia_py(built, socket, tree, name) for name, tree in copies.items()]
        if binary := os.environ.get("HARMONIA_BIN"):
            contenders.append(servers.harmonia(built, binary))

        def mirrors(upstream: str) -> list[Contender]:
            found = [servers.mirror(built, upstream, tree, name) for name, tree in copies.items()]
            if binary := os.environ.get("NCPS_BIN"):
                found.append(servers.ncps(built, upstream, binary))
            return found

        bench = Bench(
            built,
            [*contenders, servers.nginx(built)],
            workers=options.workers,
            rounds=options.rounds,
            seconds=options.minutes * 60,
            executor=executor,
            say=say,
        )
        try:
            for name in options.only.split(","):
                say(name)
                yield from SECTIONS[name](Run(bench, mirrors))
        except OutOfTimeError as error:
            say(str(error))


def _case(what: str, unit: str, *, more_is_better: bool = False) -> Case:
    return Case("field", what, unit, more_is_better)


def start(run: Run) -> Iterator[Sample]:
    """Seconds from the start of a server to its first 200, and the memory of its workers while they are idle."""
    seconds, memory = _case("start to the first 200", "s"), _case("memory of idle workers", "MB")
    for _ in run.bench.rounds():
        for contender in run.bench.contenders:
            with run.bench.running(contender, Setting("none", run.bench.workers)) as server:
                assert server.started_seconds is not None
                assert server.tree is not None
                yield Sample(seconds, server.name, server.started_seconds)
                time.sleep(_SETTLE_SECONDS)
                yield Sample(memory, server.name, server.tree.pss() / _MB)


def narinfo(run: Run) -> Iterator[Sample]:
    """Narinfos of the closure: the first time after a start, then warm, and those that are not there."""
    bench = run.bench
    cold = _case("cold narinfos, 16 connections", "s")
    warm = _case("warm narinfos, 32 connections", "requests/s", more_is_better=True)
    absent = _case("absent narinfos, 32 connections", "requests/s", more_is_better=True)
    in_turn = _case("warm narinfos, one after the other", "µs each")
    missing = absent_narinfos(_ABSENT)
    targets = [f"/{path[:32]}.narinfo" for path in sorted(bench.closure.paths)]
    for _ in bench.rounds():
        for contender in bench.contenders:
            with bench.running(contender, Setting("none", bench.workers)) as server:
                time.sleep(_SETTLE_SECONDS)  # of servers that make themselves ready after their first answer
                yield Sample(cold, server.name, bench.client(client.drain_all, server.address, targets, 16)[0])
                _ask(bench, server, targets)
                yield Sample(warm, server.name, _ask(bench, server, targets))
                each = bench.client(client.get_each, server.address, targets) / len(targets)
                yield Sample(in_turn, server.name, each * 1e6)
                yield Sample(absent, server.name, _ask(bench, server, missing, are_absent=True))


def _ask(bench: Bench, server: Server, targets: Sequence[str], *, are_absent: bool = False) -> float:
    bench.check_time()
    result = load.run(
        server.address, targets, connections=32, seconds=_LOAD_SECONDS, threads=bench.workers, are_absent=are_absent
    )
    return result.per_second


def none(run: Run) -> Iterator[Sample]:
    """Every NAR of the closure as it is."""
    yield from _whole(run, "NARs as they are, cold", "NARs as they are, warm", "none", "")


def zstd(run: Run) -> Iterator[Sample]:
    """Every NAR as zstd: as a file of its own, or, where there is none, coded while it is sent."""
    yield from _whole(run, "zstd, first download", "zstd, warm", "zstd", "zstd")


def _whole(run: Run, first: str, warm: str, form: str, coding: str) -> Iterator[Sample]:
    bench = run.bench
    setting = Setting(form, bench.workers)
    for _ in bench.rounds():
        for contender in bench.contenders:
            with bench.running(contender, setting) as server:
                target = bench.resolve(server, None if contender.name == HARMONIA else form)
                assert target is not None
                drop_from_page_cache(contender.files(setting))
                for what, connections in ((first, 4), *((warm, number) for number in _CONNECTIONS)):
                    bench.check_time()
                    case = _case(f"{what}, {connections} connection{'s' * (connections > 1)}", "s")
                    seconds, _size = bench.client(client.drain_all, server.address, target.nars, connections, coding)
                    yield Sample(case, server.name, seconds)


def big(run: Run) -> Iterator[Sample]:
    """The path of one large file, over one connection."""
    bench = run.bench
    speed = _case("256 MiB as they are", "MB/s", more_is_better=True)
    cost = _case("256 MiB as they are, CPU", "s")
    with bench.all_running(Setting("none", bench.workers)) as targets:
        nars = {target.server.name: [bench.nar_of(target, bench.closure.big)] for target in targets}
        for target in targets:
            bench.client(client.drain_all, target.server.address, nars[target.server.name], 1)
        for _ in bench.rounds():
            for target in targets:
                name = target.server.name
                with Watch(target.server.tree) as watch:
                    seconds, size = bench.client(client.drain_all, target.server.address, nars[name] * 8, 1)
                yield Sample(speed, name, size / seconds / _MB)
                assert watch.cpu_seconds is not None
                yield Sample(cost, name, watch.cpu_seconds / 8)


def mirror(run: Run) -> Iterator[Sample]:
    """Small NARs through mirrors that keep nothing yet, and the same from the upstream directly."""
    bench = run.bench
    setting = Setting("zstd", bench.workers)
    cold, warm = "mirror, small NARs, cold, 4 connections", "mirror, small NARs, warm, 1 connection"
    with bench.running(servers.nginx(bench.closure), setting) as upstream:
        for _ in bench.rounds():
            for contender in run.mirrors(upstream.url):
                with bench.running(contender, setting) as server:
                    yield from _small(bench, server, cold, warm)
            yield from _small(bench, upstream, cold, warm)


def _small(bench: Bench, server: Server, cold: str, warm: str) -> Iterator[Sample]:
    target = bench.resolve(server, None)
    assert target is not None
    nars = _small_nars(server, target)
    for what, connections in ((cold, 4), (warm, 1)):
        bench.check_time()
        seconds, _ = bench.client(client.drain_all, server.address, nars, connections)
        yield Sample(_case(what, "s"), server.name, seconds)


def _small_nars(server: Server, target: Target) -> list[str]:
    with client.Connection(server.address) as connection:
        texts = [connection.get(narinfo).decode() for narinfo in target.narinfos]
    sizes = [dict(line.split(": ", 1) for line in text.splitlines())["FileSize"] for text in texts]
    return [nar for nar, size in zip(target.nars, sizes, strict=True) if int(size) <= _SMALL_BYTES]


def copy(run: Run) -> Iterator[Sample]:
    """`nix copy --from` of the whole closure into an empty store, with the defaults of each server."""
    bench = run.bench
    case = _case("nix copy", "s")
    with bench.all_running(Setting("zstd", bench.workers), any_form=True) as targets:
        for target in targets:
            bench.client(client.drain_all, target.server.address, target.nars, bench.workers)
        for _ in bench.rounds(at_most=2):
            for target in targets:
                yield Sample(case, target.server.name, nix_client.copy_closure(bench, target.server))


def format_field(samples: Sequence[Sample]) -> str:
    """A Markdown table with a column for each server, medians over the rounds, and the goals of ours."""
    names = dict.fromkeys((*COLUMNS, *(sample.server for sample in samples)))
    return report.format_columns(samples, {name: name for name in names}, GOALS)


Section = Callable[[Run], Iterator[Sample]]
SECTIONS: Final[dict[str, Section]] = {
    "start": start,
    "narinfo": narinfo,
    "none": none,
    "zstd": zstd,
    "big": big,
    "mirror": mirror,
    "copy": copy,
}

if __name__ == "__main__":
    sys.exit(main())
