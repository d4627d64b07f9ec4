"""`nix copy --to` of a closure: into a directory, to a server that only writes, and to those that take pushes."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import servers
from benchmarks.bench import Case, Goal, Sample
from benchmarks.closure import MIB
from benchmarks.nix_store import STORE_DIR
from benchmarks.processes import Watch
from benchmarks.push_receivers import Run, directory, receivers
from benchmarks.servers import Setting

PATHS: Final = 300
# xz takes a minute for each 300 MB: the first paths of the closure, up to so many bytes of NARs.
XZ_BYTES: Final = 60 * MIB
# A file system that never waits for a disk: what is left is what the programs themselves take.
MEMORY: Final = Path("/dev/shm")
_FILE: Final = "nix copy --to file://"
_DURABLE: Final = "nix copy --to file://, sync"
_COPY_GOAL: Final = Goal(1.15, _FILE)


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
    with directory(run, beside) as place:
        seconds = copy_to(run, f"file://{place}/cache?compression={form}", paths)
        yield Sample(case, _FILE, seconds)
        if beside is None:
            begin = time.perf_counter()
            os.sync()
            yield Sample(case, _DURABLE, seconds + time.perf_counter() - begin)
    with directory(run, beside) as place:
        with servers.nginx_put().start(Setting("zstd", run.bench.workers), place) as server:
            seconds = copy_to(run, f"{server.url}?compression={form}", paths)
        yield Sample(case, server.name, seconds)
    for start in receivers():
        with start(run, beside) as receiver:
            with Watch(receiver.server.tree) as watch:
                seconds = copy_to(run, receiver.url(form), paths)
            yield Sample(case, receiver.server.name, seconds, watch.cpu_seconds, watch.peak_pss)


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


def copy_to(run: Run, url: str, paths: Sequence[str]) -> float:
    """Seconds that `nix copy` takes to push `paths` to a store URL."""
    begin = time.perf_counter()
    run.bench.closure.store.run("nix", "copy", "--no-check-sigs", "--to", url, *paths)
    return time.perf_counter() - begin
