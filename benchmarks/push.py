"""What a push costs: `python -m benchmarks.push`, beside the least that a client or a verifier can do in the same run.

`nix copy --to file://` compresses and writes; a push over HTTP does this too, and what comes is decompressed, hashed
twice, read, and durable when it is answered. So beside it stand the same with a `sync` at its end, a push to nginx that
writes and verifies nothing, and one to ncps, which holds no NAR against its narinfo, where `NCPS_BIN` names it. Client
and server share the machine: with few cores each takes from the other.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from typing import Final

from benchmarks import BenchmarkError, client, closure, load, push_client, report, servers
from benchmarks.bench import Bench, Case, Goal, Sample, require
from benchmarks.closure import MIB, TEMPORARY_PREFIX, Closure, Recipe
from benchmarks.nix_store import STORE_DIR
from benchmarks.processes import SAMPLE_SECONDS, Watch
from benchmarks.push_client import File
from benchmarks.run import PROJECT, RESULTS
from benchmarks.servers import Server, Setting
from harmonia_py.nix.hashes import Hash

RECIPE: Final = Recipe("push", ("build-essential", "gimp", "git", "vim"), 2_000, 256 * MIB, 301, 3 << 30)
PATHS: Final = 300
# xz takes a minute for each 300 MB: the first paths of the closure, up to so many bytes of NARs.
XZ_BYTES: Final = 60 * MIB
# A file system that never waits for a disk: what is left is what the programs themselves take.
MEMORY: Final = Path("/dev/shm")
_FILE: Final = "nix copy --to file://"
_DURABLE: Final = "nix copy --to file://, sync"
_LEAST: Final = "zstd -dc, sha256sum of both"
_OURS: Final = report.MEASURED
_COPY_GOAL: Final = Goal(1.15, _FILE)
_MB: Final = 1e6
_CLIENTS: Final = 16


@dataclass(frozen=True, slots=True)
class Run:
    """What every section needs."""

    bench: Bench
    tree: Path
    large: int


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


@contextmanager
def _team(run: Run, beside: Path | None = None) -> Iterator[tuple[Server, str, Path]]:
    """A server with the public cache `team` that has nothing yet, a token for it, and its directory."""
    with _directory(run, beside) as directory:
        contender = servers.team(run.bench.closure, run.tree)
        with contender.start(Setting("zstd", run.bench.workers), directory) as server:
            yield server, servers.make_token(run.tree, directory), directory


@contextmanager
def _directory(run: Run, beside: Path | None) -> Iterator[Path]:
    parent = beside or run.bench.closure.directory
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=parent) as name:
        # What an earlier measurement has left to write would be waited for by the first that waits for the disk.
        os.sync()
        yield Path(name)


def copy(run: Run) -> Iterator[Sample]:
    """`nix copy --to` of 300 paths, beside the same into a directory, and to a server that only writes."""
    for what, form, paths in _closures(run):
        for _ in run.bench.rounds():
            yield from _copies(run, Case("nix copy", f"{what}, {form}", "s", goal=_COPY_GOAL), form, paths)


def copy_xz(run: Run) -> Iterator[Sample]:
    """`nix copy` with xz, which is what Nix takes when no compression is named."""
    case = Case("nix copy", f"the first of them, {XZ_BYTES // MIB} MiB, xz", "s", goal=_COPY_GOAL)
    yield from _copies(run, case, "xz", list(_first(run, XZ_BYTES)))


def copy_in_memory(run: Run) -> Iterator[Sample]:
    """`nix copy` to and from a file system in memory, where no disk is waited for."""
    for what, form, paths in _closures(run):
        for _ in run.bench.rounds():
            case = Case("nix copy", f"{what}, {form}, in memory", "s", goal=_COPY_GOAL)
            yield from _copies(run, case, form, paths, MEMORY)


def _closures(run: Run) -> Iterator[tuple[str, str, Sequence[str]]]:
    """What is pushed, in words, how it is compressed, and the paths."""
    built = run.bench.closure
    real = [f"{STORE_DIR}/{path}" for path in built.paths[:PATHS]]
    tiny = [f"{STORE_DIR}/{path}" for path in built.tiny[: PATHS - 8]]  # with the eight that they refer to
    yield "300 real paths", "zstd", real
    yield "300 real paths", "none", real
    yield "300 paths of a few bytes", "zstd", tiny


def _copies(run: Run, case: Case, form: str, paths: Sequence[str], beside: Path | None = None) -> Iterator[Sample]:
    with _directory(run, beside) as directory:
        seconds = _copy(run, f"file://{directory}/cache?compression={form}", paths)
        yield Sample(case, _FILE, seconds)
        if beside is None:
            begin = time.perf_counter()
            os.sync()
            yield Sample(case, _DURABLE, seconds + time.perf_counter() - begin)
    with _directory(run, beside) as directory:
        with servers.nginx_put().start(Setting("zstd", run.bench.workers), directory) as server:
            seconds = _copy(run, f"{server.url}?compression={form}", paths)
        yield Sample(case, server.name, seconds)
    if binary := os.environ.get("NCPS_BIN"):
        with (
            _directory(run, beside) as directory,
            servers.ncps_put(binary).start(Setting("zstd", run.bench.workers), directory) as server,
        ):
            with Watch(server.tree) as watch:
                seconds = _copy(run, f"{server.url}/upload?compression={form}", paths)
            yield Sample(case, server.name, seconds, watch.cpu_seconds, watch.peak_pss)
    with _team(run, beside) as (server, token, _):
        url = f"http://x:{token}@{server.address[0]}:{server.address[1]}/team/push/r?compression={form}"
        with Watch(server.tree) as watch:
            seconds = _copy(run, url, paths)
        yield Sample(case, _OURS, seconds, watch.cpu_seconds, watch.peak_pss)


def _first(run: Run, size: int) -> Iterator[str]:
    infos = json.loads(
        run.bench.closure.store.run(
            "nix", "path-info", "--json", *(f"{STORE_DIR}/{path}" for path in run.bench.closure.paths[:PATHS])
        )
    )
    sizes = {info["path"]: info["narSize"] for info in infos}
    for path in run.bench.closure.paths[:PATHS]:
        full = f"{STORE_DIR}/{path}"
        size -= sizes[full]
        if size < 0:
            return
        yield full


def _copy(run: Run, url: str, paths: Sequence[str]) -> float:
    begin = time.perf_counter()
    run.bench.closure.store.run("nix", "copy", "--no-check-sigs", "--to", url, *paths)
    return time.perf_counter() - begin


def latency(run: Run) -> Iterator[Sample]:
    """How long the PUT of a small NAR and that of its narinfo take, one after the other."""
    nars, narinfos = _files(run)
    for _ in run.bench.rounds():
        with _team(run) as (server, token, _):
            files = [file for pair in zip(nars, narinfos, strict=True) for file in pair]
            times = run.bench.client(push_client.push_each, server.address, token, files)
        for name, of_kind in (("NAR", times[::2]), ("narinfo", times[1::2])):
            for percentile in (50, 95):
                goal = Goal(5, None) if (name, percentile) == ("narinfo", 50) else None
                case = Case("PUT", f"a {name} of a few bytes, p{percentile}", "ms", goal=goal)
                yield Sample(case, _OURS, quantiles(of_kind, n=100)[percentile - 1])


def _files(run: Run) -> tuple[list[File], list[File]]:
    """The NARs and narinfos of the small paths, with nothing that they refer to."""
    nars, narinfos = [], []
    for path in run.bench.closure.tiny:
        words = ("nix-archive-1", "(", "type", "regular", "contents", path, ")")
        nar = b"".join(len(word).to_bytes(8, "little") + word.encode() + bytes(-len(word) % 8) for word in words)
        digest = Hash.of(nar)
        narinfo = (
            f"StorePath: {STORE_DIR}/{path}\nURL: nar/{digest.nix32}.nar\nCompression: none\nFileHash: {digest}\n"
            f"FileSize: {len(nar)}\nNarHash: {digest}\nNarSize: {len(nar)}\nReferences: \n"
        )
        nars.append(File(f"/team/push/r/nar/{digest.nix32}.nar", nar))
        narinfos.append(File(f"/team/push/r/{path[:32]}.narinfo", narinfo.encode()))
    return nars, narinfos


def verify(run: Run) -> Iterator[Sample]:
    """How many bytes of NARs a second of processor time receives and verifies, beside the least that does."""
    case = Case("verify", "zstd, MB of NARs per CPU second", "MB/s", more_is_better=True, goal=Goal(0.85, _LEAST))
    built = run.bench.closure
    directory = built.file_cache("zstd") / "nar"
    files = sorted(directory.iterdir(), key=lambda file: file.stat().st_size)[-60:]
    bodies = [File(f"/team/push/r/nar/{Hash.of(file.read_bytes()).nix32}.nar.zst", file.read_bytes()) for file in files]
    size = sum(_unpacked_size(file) for file in files)
    for _ in run.bench.rounds():
        yield Sample(case, _LEAST, size / _cpu_seconds(files) / _MB)
        with _team(run) as (server, token, _):
            with Watch(server.tree) as watch:
                run.bench.client(push_client.push_each, server.address, token, bodies)
            assert watch.cpu_seconds is not None
            yield Sample(case, _OURS, size / watch.cpu_seconds / _MB, watch.cpu_seconds, watch.peak_pss)


def _unpacked_size(file: Path) -> int:
    with subprocess.Popen([require("zstd"), "-dcq", str(file)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        size = 0
        while data := process.stdout.read(1 << 20):
            size += len(data)
    return size


def _cpu_seconds(files: Sequence[Path]) -> float:
    """What `zstd` and two `sha256sum` take for the files; what it costs to start them is left out by their number."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    names = " ".join(f"'{file}'" for file in files)
    command = f"cat {names} | sha256sum >/dev/null; cat {names} | zstd -dcq | sha256sum >/dev/null"
    subprocess.run(["/bin/sh", "-c", command], check=True, timeout=600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def memory(run: Run) -> Iterator[Sample]:
    """Private memory of all processes beyond that of an idle server, while 16 clients push a large NAR each."""
    case = Case("memory", f"{_CLIENTS} clients push {run.large // MIB} MiB each", "MB more", goal=Goal(120, None))
    speed = Case("memory", f"{_CLIENTS} clients push {run.large // MIB} MiB each", "MB/s", more_is_better=True)
    with _team(run) as (server, token, _):
        assert server.tree is not None
        run.bench.client(push_client.push_large, server.address, token, "/team/push/warm", 1, 4 * MIB)
        idle, peak, ended = server.tree.private(), 0, Event()

        def watch() -> None:
            nonlocal peak
            assert server.tree is not None
            while not ended.wait(SAMPLE_SECONDS):
                peak = max(peak, server.tree.private())

        watcher = Thread(target=watch)
        watcher.start()
        try:
            seconds = run.bench.client(
                push_client.push_large, server.address, token, "/team/push/r", _CLIENTS, run.large
            )
        finally:
            ended.set()
            watcher.join()
        yield Sample(case, _OURS, (peak - idle) / _MB)
        yield Sample(speed, _OURS, _CLIENTS * run.large / seconds / _MB)


def warm(run: Run) -> Iterator[Sample]:
    """Narinfos and NARs that were pushed, beside nginx over the directory that `nix copy --to file://` wrote."""
    built = run.bench.closure
    narinfo = Case("warm", "narinfos, 32 connections", "requests/s", more_is_better=True, goal=Goal(1.0))
    nars = Case("warm", "every NAR, zstd, 4 connections", "s", goal=Goal(1.0))
    setting = Setting("zstd", run.bench.workers)
    with run.bench.running(servers.nginx(built), setting) as nginx, _team(run) as (ours, token, _):
        url = f"http://x:{token}@{ours.address[0]}:{ours.address[1]}/team/push/r?compression=zstd"
        _copy(run, url, [built.root])
        reference = run.bench.resolve(nginx, "zstd")
        pushed = run.bench.resolve(ours, "zstd", "/team")
        assert reference is not None
        assert pushed is not None
        for target in (reference, pushed):
            # Every worker has to have sent every file, whichever of them took which connection.
            run.bench.client(client.drain_all, target.server.address, [*target.nars] * 8, 16)
        for _ in run.bench.rounds():
            for target in (reference, pushed):
                with Watch(target.server.tree) as watch:
                    told = load.run(
                        target.server.address, target.narinfos, connections=32, seconds=3, threads=run.bench.workers
                    )
                yield Sample(narinfo, target.server.name, told.per_second, watch.cpu_seconds, watch.peak_pss)
                yield run.bench.time_downloads(nars, target, [*target.nars] * 2, 4)


Section = Callable[[Run], Iterator[Sample]]
SECTIONS: dict[str, Section] = {
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
