"""Measure harmonia-py beside nginx and other servers: `python -m benchmarks.run`."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

from benchmarks import BenchmarkError, chart, closure, costs, nix_client, report, servers, throughput
from benchmarks.bench import Bench, OutOfTimeError, Sample

PROJECT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
_BUSY = 0.5  # a load average above which it is not the servers alone that are measured
Section = Callable[[Bench], Iterator[Sample]]
SECTIONS: dict[str, Section] = {
    "narinfo": throughput.narinfo,
    "absent": throughput.absent,
    "unseen": throughput.unseen,
    "none": throughput.whole_closure("none", 2.0),
    "zstd": throughput.whole_closure("zstd", 1.2),
    "big": throughput.big,
    "first": costs.first,
    "start": costs.start,
    "memory": costs.memory,
    "busy": costs.busy,
    "query": nix_client.query,
    "copy": nix_client.copy,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # servers are stopped on the way out
    begin, load = time.monotonic(), os.getloadavg()[0]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    try:
        built = closure.prepare(closure.SMALL if options.small else closure.FULL, say)
        say(f"closure: {len(built.paths)} paths, {built.nar_size / closure.MIB:.0f} MiB, in {built.directory}")
        if options.prepare:
            return 0
        if load > _BUSY:
            say(f"the machine is busy with something else (load average {load:.1f}): expect noise")
        samples, failures = _measure(options, built, say)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    table = report.rows(samples)
    machine = report.describe_machine(options.workers, load)
    print(f"\n{report.format_table(table)}\n{machine}")
    if table:
        _publish(options, table, machine)
    if failures:
        print(f"benchmark: {len(failures)} sections failed", file=sys.stderr)
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="a closure of 100 MiB, and one round: does everything work?"
    )
    parser.add_argument("--only", metavar="A,B", help=f"these sections alone; there are {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, help="how often each case is measured (5; with --small 1)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes of each server (%(default)s)"
    )
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL", help="a server that already runs")
    parser.add_argument(
        "--tree", action="append", default=[], metavar="NAME=DIR", help="another version of this project"
    )
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave this server out")
    parser.add_argument("--minutes", type=float, default=60, help="measure no longer than this (%(default)s)")
    parser.add_argument(
        "--output", type=Path, help="directory for CSV, SVG, PNG (benchmarks/results; with --small none)"
    )
    parser.add_argument("--prepare", action="store_true", help="build the closure and stop")
    options = parser.parse_args(arguments)
    options.sections = options.only.split(",") if options.only else list(SECTIONS)
    for name in options.sections:
        if name not in SECTIONS:
            parser.error(f"no section {name!r}; there are {', '.join(SECTIONS)}")
    for text in options.peer + options.tree:
        if "=" not in text:
            parser.error(f"NAME=… is meant, not {text!r}")
    options.rounds = options.rounds or (1 if options.small else 5)
    options.output = options.output or (None if options.small else RESULTS)
    return options


def _measure(
    options: argparse.Namespace, built: closure.Closure, say: Callable[[str], None]
) -> tuple[list[Sample], list[str]]:
    """All samples, and what went wrong: a section that fails does not take the others with it."""
    samples: list[Sample] = []
    failures: list[str] = []
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="harmonia-bench-"))
        # A fresh interpreter: forking one that has threads would copy their locks.
        executor = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        socket = stack.enter_context(built.store.daemon(Path(directory)))
        contenders = [servers.nginx(built)]
        trees = {report.MEASURED: str(PROJECT)} | dict(text.split("=", 1) for text in options.tree)
        for name, tree in trees.items():
            copy = servers.snapshot(Path(tree), Path(directory, f"tree-{name}"))
            contenders.append(servers.harmonia_py(built, socket, copy, name))
        contenders += [servers.peer(*text.split("=", 1)) for text in options.peer]
        bench = Bench(
            built,
            [contender for contender in contenders if contender.name not in options.without],
            workers=options.workers,
            rounds=options.rounds,
            seconds=options.minutes * 60,
            executor=executor,
            say=say,
        )
        for name in options.sections:
            say(name)
            try:
                for sample in SECTIONS[name](bench):
                    samples.append(sample)  # noqa: PERF402 -- what came before a failure counts
            except OutOfTimeError as error:
                say(f"{name}: {error}; what follows is left out")
                break
            except (BenchmarkError, OSError, TimeoutError, subprocess.SubprocessError) as error:
                failures.append(f"{name}: {error}")
                say(failures[-1])
    return samples, failures


def _publish(options: argparse.Namespace, table: Sequence[report.Row], machine: str) -> None:
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    base = options.output / ("small" if options.small else "closure")
    base.with_suffix(".csv").write_text(report.format_csv(table))
    base.with_suffix(".md").write_text(f"{report.format_table(table)}\n{machine}\n")
    svg = base.with_suffix(".svg")
    svg.write_text(chart.format_svg(table, machine))
    written = [".csv", ".md", ".svg"]
    if shutil.which("rsvg-convert"):
        chart.write_png(svg, base.with_suffix(".png"))
        written.append(".png")
    else:
        print("no PNG: rsvg-convert is not installed (Debian: librsvg2-bin)")
    print(f"written: {base} {' '.join(written)}")


if __name__ == "__main__":
    sys.exit(main())
