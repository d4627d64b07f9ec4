"""harmonia-py beside the servers that others have written: `python -m benchmarks.field`.

`HARMONIA_BIN` and `NCPS_BIN` name their binaries; a server whose binary is not given is left out, and what is held
against it says nothing then. The closure is that of `benchmarks.push`. Servers take turns within each round.
"""

import argparse
import os
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

from benchmarks import BenchmarkError, client, closure, report, servers
from benchmarks.bench import Bench, OutOfTimeError, Sample
from benchmarks.field_sections import SECTIONS, Run, Section
from benchmarks.field_table import OURS, format_field
from benchmarks.push_receivers import RECIPE
from benchmarks.run import PROJECT, RESULTS
from benchmarks.servers import Contender, Setting


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.field", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="how often each thing is measured (%(default)s)")
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
    peers = ""
    try:
        built = closure.prepare(RECIPE, say)
        peers = _peers(built)
        for sample in _measure(options, built, say):
            samples.append(sample)  # noqa: PERF402 -- what came before a failure counts
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    finally:
        machine = f"{report.describe_machine(options.workers, before)}{peers}"
        text = f"{format_field(samples)}\n{machine} Load average after: {os.getloadavg()[0]:.1f}.\n"
        print(text)
        if samples:
            options.output.write_text(text)
    return 0


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
            for number in bench.rounds():
                for name in options.only.split(","):
                    say(f"round {number} of {options.rounds}: {name}; load average {os.getloadavg()[0]:.1f}")
                    yield from whole_section(SECTIONS[name], Run(bench, mirrors))
        except OutOfTimeError as error:
            say(str(error))


def whole_section(section: Section, run: Run) -> Sequence[Sample]:
    """The samples of all servers; none when one fails, so that those of a round are held against each other."""
    try:
        return list(section(run))
    except OutOfTimeError:
        raise
    except BenchmarkError as error:
        run.bench.say(f"left out in this round: {error}")
        return []


def _peers(built: closure.Closure) -> str:
    """The versions of the servers that others have written, as they tell them."""
    found = []
    if binary := os.environ.get("HARMONIA_BIN"):
        with (
            tempfile.TemporaryDirectory(prefix="harmonia-bench-") as directory,
            servers.harmonia(built, binary).start(Setting("none", 1), Path(directory)) as server,
            client.Connection(server.address) as connection,
        ):
            found.append(connection.get("/version").decode().strip())
    if binary := os.environ.get("NCPS_BIN"):
        found.append(subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip())
    return " Beside it: " + ", ".join(found) + "." if found else ""


if __name__ == "__main__":
    sys.exit(main())
