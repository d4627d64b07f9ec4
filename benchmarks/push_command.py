"""What `harmonia-py push` costs, beside `nix copy`: `python -m benchmarks.push_command`.

Client and server share the machine. `nix copy` reads the store by itself, which is its fastest way; ours goes through
the nix-daemon, as a user does. Each push of a round is to a server of its own that has nothing yet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import BenchmarkError, closure, report, servers
from benchmarks.bench import Bench, Case, Goal, Sample
from benchmarks.closure import MIB, TEMPORARY_PREFIX, Closure
from benchmarks.nix_store import STORE_DIR, NixStore
from benchmarks.processes import ProcessTree, Watch
from benchmarks.run import PROJECT, RESULTS
from benchmarks.servers import Server, Setting

PATHS: Final = 300
PRESENT: Final = 10_000
REBUILT: Final = (1_000, 10)
"""Paths, and how many of them are new."""
_LARGE_BYTES: Final = 2048 * MIB
# Beside the large NAR, so that every job has something to do.
_MEDIUM_FILES: Final = 64
_MEDIUM_BYTES: Final = 12 * MIB
_COPY: Final = "nix copy"
_OURS: Final = report.MEASURED
_NOTHING: Final = "python -c pass"
_HOOKS: Final = 20
_TIMEOUT_SECONDS: Final = 600
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Run:
    """What every section needs.

    Attributes:
        bench: the closure, and the time.
        tree: what is measured.
        socket: of the nix-daemon of the closure's store.
    """

    bench: Bench
    tree: Path
    socket: Path


@dataclass(frozen=True, slots=True)
class Pushed:
    """One push.

    Attributes:
        seconds: from exec to exit.
        counts: of the summary.
        peak_pss: bytes of memory.
    """

    seconds: float
    counts: Mapping[str, int]
    peak_pss: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.push_command", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30, help="measure no longer than this (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each server (%(default)s)")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, of %(default)s")
    parser.add_argument("--tree", type=Path, default=PROJECT, help="the tree that is measured (this one)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory for push_command.md (%(default)s)")
    options = parser.parse_args(arguments)
    begin, before = time.monotonic(), os.getloadavg()[0]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    try:
        built = closure.prepare(closure.FULL, say)
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
    (options.output / "push_command.md").write_text(
        f"{table}\n{machine} Load average after: {os.getloadavg()[0]:.1f}.\n"
    )
    return 0


def _measure(options: argparse.Namespace, built: Closure, say: Callable[[str], None]) -> Iterator[Sample]:
    with (
        tempfile.TemporaryDirectory(prefix="harmonia-bench-") as name,
        ProcessPoolExecutor(1) as executor,
        built.store.daemon(Path(name)) as socket,
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
        run = Run(bench, tree, socket)
        for section in options.only.split(","):
            say(section)
            yield from SECTIONS[section](run)


@contextmanager
def _team(run: Run) -> Iterator[tuple[Server, str]]:
    """A server with a cache `team` that has nothing yet, and a token for it."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=run.bench.closure.directory) as name:
        contender = servers.team(run.bench.closure, run.tree)
        with contender.start(Setting("zstd", run.bench.workers), Path(name)) as server:
            yield server, servers.make_token(run.tree, Path(name))


def _push(run: Run, server: Server, token: str, paths: Sequence[str], remote: str) -> Pushed:
    """Push these full paths with a client that has just been started.

    Raises:
        BenchmarkError: it fails, or takes too long.
    """
    command = [sys.executable, "-m", "harmonia_py.cli", "push", f"{server.url}/team", "--stdin", "--json"]
    environment = os.environ | {"HARMONIA_PY_TOKEN": token, "NIX_REMOTE": remote}
    begin = time.perf_counter()
    with (
        subprocess.Popen(
            command,
            cwd=run.tree,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
        Watch(ProcessTree(process.pid)) as watch,
    ):
        stdout, stderr = process.communicate("\n".join(paths), timeout=_TIMEOUT_SECONDS)
        seconds = time.perf_counter() - begin
    if process.returncode:
        raise BenchmarkError(f"the push failed: {stderr.strip()[-2000:]}")
    assert watch.peak_pss is not None
    return Pushed(seconds, json.loads(stdout.splitlines()[-1])["summary"], watch.peak_pss)


def _through_daemon(run: Run) -> str:
    return f"unix://{run.socket}?root={run.bench.closure.store.root}"


def copy(run: Run) -> Iterator[Sample]:
    """300 real paths to an empty cache."""
    built = run.bench.closure
    paths = [f"{STORE_DIR}/{path}" for path in built.paths[:PATHS]]
    case = Case("push", f"{PATHS} real paths, zstd, to an empty cache", "s", goal=Goal(0.7, _COPY))
    for _ in run.bench.rounds():
        with _team(run) as (server, token):
            url = f"http://x:{token}@{server.address[0]}:{server.address[1]}/team/push/r?compression=zstd"
            begin = time.perf_counter()
            built.store.run("nix", "copy", "--no-check-sigs", "--to", url, *paths)
            yield Sample(case, _COPY, time.perf_counter() - begin)
        with _team(run) as (server, token):
            pushed = _push(run, server, token, paths, _through_daemon(run))
            yield Sample(case, _OURS, pushed.seconds, None, pushed.peak_pss)


def present(run: Run) -> Iterator[Sample]:
    """Paths that are all there, and a rebuild after which a few are not."""
    tiny = [f"{STORE_DIR}/{path}" for path in run.bench.closure.tiny]
    all_there = Case("present", f"{PRESENT} paths that are all there", "s", goal=Goal(1, None))
    few_new = Case("rebuild", f"{REBUILT[0]} paths, of which {REBUILT[1]} are new", "s", goal=Goal(1.5, None))
    remote = _through_daemon(run)
    with _team(run) as (server, token):
        first = _push(run, server, token, tiny[:PRESENT], remote)
        run.bench.say(f"{first.counts['pushed']} paths pushed in {first.seconds:.1f} s")
        for number in run.bench.rounds():
            pushed = _push(run, server, token, tiny[:PRESENT], remote)
            yield Sample(all_there, _OURS, pushed.seconds, None, pushed.peak_pss)
            new = tiny[PRESENT + number * REBUILT[1] :][: REBUILT[1]]
            pushed = _push(run, server, token, tiny[: REBUILT[0] - REBUILT[1]] + new, remote)
            assert pushed.counts["pushed"] == REBUILT[1], pushed.counts
            yield Sample(few_new, _OURS, pushed.seconds, None, pushed.peak_pss)


def memory(run: Run) -> Iterator[Sample]:
    """A NAR of 2 GiB, and others beside it, by a client with eight jobs."""
    case = Case("memory", f"a NAR of {_LARGE_BYTES // MIB} MiB and others, 8 jobs", "MB", goal=Goal(80, None))
    speed = Case("memory", case.what, "MB/s", more_is_better=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=run.bench.closure.directory) as name:
        store = NixStore(Path(name) / "root")
        paths = list(_add_large_files(store, run.bench.closure, Path(name)))
        size = _LARGE_BYTES + _MEDIUM_FILES * _MEDIUM_BYTES
        with store.daemon(Path(name)) as socket:
            for _ in run.bench.rounds(at_most=1):
                with _team(run) as (server, token):
                    pushed = _push(run, server, token, paths, f"unix://{socket}?root={store.root}")
                yield Sample(case, _OURS, pushed.peak_pss / _MB, None, pushed.peak_pss)
                yield Sample(speed, _OURS, size / pushed.seconds / _MB)


def hook(run: Run) -> Iterator[Sample]:
    """What a build waits for when its hook writes down what it has made, beside a Python that does nothing."""
    waited = Case("hook", "`hook add` of one path", "ms", goal=Goal(2, _NOTHING))
    computed = Case("hook", "`hook add` of one path, CPU time", "ms", goal=Goal(2, _NOTHING), is_cost=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=run.bench.closure.directory) as name:
        add = ["-m", "harmonia_py.start", "hook", "add", "--queue", name, f"{STORE_DIR}/{run.bench.closure.tiny[0]}"]
        for _ in range(_HOOKS):
            for server, arguments in ((_NOTHING, ["-c", "pass"]), (_OURS, add)):
                begin = time.perf_counter()
                process = subprocess.Popen([sys.executable, *arguments], cwd=run.tree)
                _, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                if process.returncode:
                    raise BenchmarkError("`hook add` failed")
                yield Sample(waited, server, (time.perf_counter() - begin) * 1000)
                yield Sample(computed, server, (used.ru_utime + used.ru_stime) * 1000)


def _add_large_files(store: NixStore, built: Closure, directory: Path) -> Iterator[str]:
    """One path of 2 GiB and several that are smaller, of real files."""
    big = built.store.real_store / built.big / "big"
    file = directory / "file"
    for number, size in enumerate([_LARGE_BYTES] + [_MEDIUM_BYTES] * _MEDIUM_FILES):
        with big.open("rb") as source, file.open("wb") as target:
            source.seek(number * _MEDIUM_BYTES)
            while target.tell() < size:
                block = source.read(min(MIB, size - target.tell()))
                if not block:
                    source.seek(0)
                target.write(block)
        yield store.run("nix-store", "--add", str(file)).strip()


Section = Callable[[Run], Iterator[Sample]]
SECTIONS: Final[Mapping[str, Section]] = {"copy": copy, "present": present, "memory": memory, "hook": hook}

if __name__ == "__main__":
    sys.exit(main())
