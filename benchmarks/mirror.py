"""What a mirror costs who asks it first: `python -m benchmarks.mirror`, beside downloading from its upstream directly.

The upstream is nginx with a file cache on this machine. A mirror verifies, decompresses, and writes what it sends, so
it cannot be as fast as a loopback; what counts is a network (1 Gbit/s here) and a real Nix client, which does the same.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles

from benchmarks import BenchmarkError, client, closure, nix_client, report, servers
from benchmarks.bench import Bench, Case, Goal, OutOfTimeError, Sample, Target
from benchmarks.closure import MIB, Closure, Recipe
from benchmarks.processes import Watch
from benchmarks.run import PROJECT, RESULTS
from benchmarks.servers import Server, Setting

FORMS = ("none", "zstd", "xz")
RECIPE = Recipe("mirror", ("python3",), 2_000, 256 * MIB, 100, 3 << 30)
_GIGABIT = "125m"
_SMALL_BYTES = 256 * 1024
_LOCAL = "local store"
_UPSTREAM = "nginx"
_MB = 1e6
# Downloading directly is to be at most a tenth faster.
_GOAL = 0.9

Trees = Mapping[str, Path]
"""What is measured, by the name it has in the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mirror", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is measured (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30, help="measure no longer than this (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each server (%(default)s)")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of %(default)s")
    parser.add_argument(
        "--tree", action="append", default=[], metavar="NAME=DIR", help="another version of this project"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for mirror.md (%(default)s)")
    options = parser.parse_args(arguments)
    for text in options.tree:
        if "=" not in text:
            parser.error(f"NAME=DIR is meant, not {text!r}")
    begin, load = time.monotonic(), os.getloadavg()[0]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    try:
        built = closure.prepare(RECIPE, say)
        _write_xz(built, say)
        samples = list(_measure(options, built, say))
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    table = report.format_table(report.rows(samples))
    machine = report.describe_machine(options.workers, load)
    print(f"{table}\n{machine}")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "mirror.md").write_text(f"{table}\n{machine} Load average after: {os.getloadavg()[0]:.1f}.\n")
    return 0


def _write_xz(built: Closure, say: Callable[[str], None]) -> None:
    """The file cache that the other benchmarks have no use for."""
    directory = built.file_cache("xz")
    if directory.joinpath("nix-cache-info").exists():
        return
    say("writing the file cache, compression xz")
    target = f"file://{directory}?compression=xz&parallel-compression=true&secret-key={built.secret_key}"
    built.store.run("nix", "copy", "--no-check-sigs", "--to", target, built.root)


def _measure(options: argparse.Namespace, built: Closure, say: Callable[[str], None]) -> Iterator[Sample]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harmonia-bench-")))
        executor = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        socket = stack.enter_context(built.store.daemon(directory))
        given = {report.MEASURED: str(PROJECT)} | dict(text.split("=", 1) for text in options.tree)
        trees = {name: servers.snapshot(Path(tree), directory / f"tree-{name}") for name, tree in given.items()}
        local = servers.harmonia_py(built, socket, trees[report.MEASURED], _LOCAL)
        bench = Bench(
            built,
            [local],
            workers=options.workers,
            rounds=options.rounds,
            seconds=options.minutes * 60,
            executor=executor,
            say=say,
        )
        for name in options.only.split(","):
            for form in FORMS:
                say(f"{name}, {form}")
                try:
                    yield from SECTIONS[name](bench, trees, form)
                except OutOfTimeError as error:
                    say(str(error))
                    return


def _servers(bench: Bench, trees: Trees, form: str, limit: str = "") -> Iterator[Server]:
    """For each round the upstream, and mirrors of it that have just started, one after the other, and keep nothing."""
    setting = Setting(form, bench.workers)
    with bench.running(servers.nginx(bench.closure, limit=limit), setting) as upstream:
        for _ in bench.rounds():
            yield upstream
            for name, tree in trees.items():
                with bench.running(servers.mirror(bench.closure, upstream.url, tree, name), setting) as mirror:
                    yield mirror


def _resolve(bench: Bench, server: Server, form: str) -> Target:
    target = bench.resolve(server, form)
    assert target is not None
    return target


def _large(bench: Bench, trees: Trees, form: str, what: str, limit: str = "") -> Iterator[Sample]:
    """The path of one large file, over one connection."""
    case = Case("cold", f"{form}, {what}", "MB/s", more_is_better=True, goal=Goal(_GOAL))
    for server in _servers(bench, trees, form, limit):
        url = bench.nar_of(_resolve(bench, server, form), bench.closure.big)
        with Watch(server.tree) as watch:
            seconds, size = bench.client(client.drain_all, server.address, [url], 1)
        yield Sample(case, server.name, size / seconds / _MB, watch.cpu_seconds, watch.peak_pss)


def loopback(bench: Bench, trees: Trees, form: str) -> Iterator[Sample]:
    """As fast as memory is."""
    yield from _large(bench, trees, form, "loopback without a limit")


def gigabit(bench: Bench, trees: Trees, form: str) -> Iterator[Sample]:
    """An upstream that gives 1 Gbit/s to each connection."""
    yield from _large(bench, trees, form, "upstream at 1 Gbit/s", _GIGABIT)


def nix(bench: Bench, trees: Trees, form: str) -> Iterator[Sample]:
    """A real client copies the closure into an empty store."""
    case = Case("nix copy", f"{form}, the whole closure", "s", goal=Goal(round(1 / _GOAL, 2)))
    for server in _servers(bench, trees, form):
        bench.check_time()
        with Watch(server.tree) as watch:
            seconds = nix_client.copy_closure(bench, server)
        yield Sample(case, server.name, seconds, watch.cpu_seconds, watch.peak_pss)


def first(bench: Bench, trees: Trees, form: str) -> Iterator[Sample]:
    """Time to first byte of every NAR of the closure, one after the other."""
    sizes = ("up to 256 KiB", "larger")
    found: dict[tuple[str, str], list[float]] = {}
    for server in _servers(bench, trees, form):
        target = _resolve(bench, server, form)
        lengths = _file_sizes(server, target)
        waits = bench.client(client.first_bytes, server.address, target.nars)
        for url, seconds in zip(target.nars, waits, strict=True):
            size = sizes[lengths[url] > _SMALL_BYTES]
            found.setdefault((server.name, size), []).append(seconds * 1000)
    for size in sizes:
        for percentile in (50, 95):
            case = Case("first byte", f"{form}, {size}, p{percentile}", "ms")
            values = {
                name: quantiles(times, n=100)[percentile - 1] for (name, of), times in found.items() if of == size
            }
            yield from (Sample(case, name, value) for name, value in values.items())
            more = dataclasses.replace(case, what=f"{case.what}, later than upstream", goal=Goal(10, None))
            yield from (Sample(more, name, values[name] - values[_UPSTREAM]) for name in trees if name in values)


def _file_sizes(server: Server, target: Target) -> dict[str, int]:
    sizes = {}
    with client.Connection(server.address) as connection:
        for narinfo, url in zip(target.narinfos, target.nars, strict=True):
            fields = dict(line.split(": ", 1) for line in connection.get(narinfo).decode().splitlines())
            sizes[url] = int(fields["FileSize"])
    return sizes


def warm(bench: Bench, trees: Trees, form: str) -> Iterator[Sample]:
    """What is kept, beside the zstd files that are kept of the local store."""
    if form != "zstd":
        return
    case = Case("warm", f"{form}, every NAR, 4 connections", "s", goal=Goal(1.1, _LOCAL))
    setting = Setting(form, bench.workers)
    with ExitStack() as stack:
        upstream = stack.enter_context(bench.running(servers.nginx(bench.closure), setting))
        mirrors = [servers.mirror(bench.closure, upstream.url, tree, name) for name, tree in trees.items()]
        contenders = [*mirrors, *bench.contenders]
        running = [stack.enter_context(bench.running(contender, setting)) for contender in contenders]
        targets = [_resolve(bench, server, form) for server in running]
        for target in targets:
            bench.client(client.drain_all, target.server.address, target.nars, 4)
        for _ in bench.rounds():
            for target in targets:
                yield bench.time_downloads(case, target, [*target.nars] * 4, 4)


Section = Callable[[Bench, Trees, str], Iterator[Sample]]
SECTIONS: dict[str, Section] = {"loopback": loopback, "gigabit": gigabit, "first": first, "nix": nix, "warm": warm}

if __name__ == "__main__":
    sys.exit(main())
