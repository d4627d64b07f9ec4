"""What a push costs: `python -m benchmarks.push`, beside the least that a client or a verifier can do in the same run.

`nix copy --to file://` compresses and writes; a push over HTTP does this too, and what comes is decompressed, hashed
twice, read, and durable when it is answered. So beside it stand the same with a `sync` at its end, a push to nginx that
writes and verifies nothing, and one to ncps, which holds no NAR against its narinfo, where `NCPS_BIN` names it. Client
and server share the machine: with few cores each takes from the other.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks import BenchmarkError, closure, report, servers
from benchmarks.bench import Bench, Sample
from benchmarks.closure import MIB, Closure
from benchmarks.push_copies import copy, copy_in_memory, copy_xz
from benchmarks.push_receivers import RECIPE, Run
from benchmarks.push_requests import latency, memory, verify, warm
from benchmarks.run import PROJECT, RESULTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.push", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30, help="measure no longer than this (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each server (%(default)s)")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of %(default)s")
    parser.add_argument("--large", type=int, default=1024, help="MiB that each of 16 clients pushes (%(default)s)")
    parser.add_argument("--tree", type=Path, default=PROJECT, help="the tree that is measured (this one)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for push.md (%(default)s)")
    options = parser.parse_args(arguments)
    begin, before = time.monotonic(), os.getloadavg()[0]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    try:
        built = closure.prepare(RECIPE, say)
        samples = []
        for sample in _measure(options, built, say):
            samples.append(sample)
            say(f"{sample.case.what}: {sample.server} {sample.value:.4g} {sample.case.unit}")
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    table = report.format_table(report.rows(samples))
    machine = report.describe_machine(options.workers, before)
    print(f"{table}\n{machine}")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "push.md").write_text(f"{table}\n{machine} Load average after: {os.getloadavg()[0]:.1f}.\n")
    return 0


def _measure(options: argparse.Namespace, built: Closure, say: Callable[[str], None]) -> Iterator[Sample]:
    with (
        tempfile.TemporaryDirectory(prefix="harmonia-bench-") as name,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor,
    ):
        tree = servers.snapshot(options.tree, Path(name) / "tree")
        bench = Bench(
            built,
            [],
            workers=options.workers,
            rounds=options.rounds,
            seconds=options.minutes * 60,
            executor=executor,
            say=say,
        )
        run = Run(bench, tree, options.large * MIB)
        for section in options.only.split(","):
            say(section)
            yield from SECTIONS[section](run)


Section = Callable[[Run], Iterator[Sample]]
SECTIONS: Final[dict[str, Section]] = {
    "latency": latency,
    "copy": copy,
    "copy_xz": copy_xz,
    "copy_in_memory": copy_in_memory,
    "verify": verify,
    "memory": memory,
    "warm": warm,
}

if __name__ == "__main__":
    sys.exit(main())
