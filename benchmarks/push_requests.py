"""Single pushes, what they take to verify, the memory for many at once, and how fast is given what was pushed."""

import resource
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from threading import Event, Thread
from typing import Final

from benchmarks import client, load, push_client, report, servers
from benchmarks.bench import Case, Goal, Sample, require
from benchmarks.closure import MIB
from benchmarks.nix_store import STORE_DIR
from benchmarks.processes import SAMPLE_SECONDS, Watch
from benchmarks.push_client import File
from benchmarks.push_copies import copy_to
from benchmarks.push_receivers import Receiver, Run, receivers, team
from benchmarks.servers import Setting
from harmonia_py.nix.hashes import Hash

_LEAST: Final = "zstd -dc, sha256sum of both"
_OURS: Final = report.MEASURED
_MB: Final = 1e6
_CLIENTS: Final = 16


def latency(run: Run) -> Iterator[Sample]:
    """How long the PUT of a small NAR and that of its narinfo take, one after the other."""
    for _ in run.bench.rounds():
        for start in receivers():
            with start(run, None) as receiver:
                files = list(_files(run, receiver))
                times = run.bench.client(push_client.push_each, receiver.server.address, receiver.token, files)
            for name, of_kind in (("NAR", times[::2]), ("narinfo", times[1::2])):
                for percentile in (50, 95):
                    goal = Goal(5, None) if (name, percentile) == ("narinfo", 50) else None
                    case = Case("PUT", f"a {name} of a few bytes, p{percentile}", "ms", goal=goal)
                    value = quantiles(of_kind, n=100)[percentile - 1]
                    yield Sample(case, receiver.server.name, value)


def _files(run: Run, receiver: Receiver) -> Iterator[File]:
    """The NAR and the narinfo of each of the small paths, with nothing that they refer to."""
    for path in run.bench.closure.tiny:
        words = ("nix-archive-1", "(", "type", "regular", "contents", path, ")")
        nar = b"".join(len(word).to_bytes(8, "little") + word.encode() + bytes(-len(word) % 8) for word in words)
        digest = Hash.of(nar)
        narinfo = (
            f"StorePath: {STORE_DIR}/{path}\nURL: nar/{digest.nix32}.nar\nCompression: none\nFileHash: {digest}\n"
            f"FileSize: {len(nar)}\nNarHash: {digest}\nNarSize: {len(nar)}\nReferences: \n"
        )
        yield File(f"{receiver.upload}/nar/{digest.nix32}.nar", nar)
        yield File(f"{receiver.upload}/{path[:32]}.narinfo", narinfo.encode())


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
        with team(run) as ours:
            with Watch(ours.server.tree) as watch:
                run.bench.client(push_client.push_each, ours.server.address, ours.token, bodies)
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
    with team(run) as ours:
        server, token = ours.server, ours.token
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
    with ExitStack() as stack:
        nginx = stack.enter_context(run.bench.running(servers.nginx(built), setting))
        targets = [run.bench.resolve(nginx, "zstd")]
        for start in receivers():
            receiver = stack.enter_context(start(run, None))
            copy_to(run, receiver.url("zstd"), [built.root])
            targets.append(run.bench.resolve(receiver.server, "zstd", receiver.cache))
        found = [target for target in targets if target is not None]
        for target in found:
            # Every worker has to have sent every file, whichever of them took which connection.
            run.bench.client(client.drain_all, target.server.address, [*target.nars] * 8, 16)
        for _ in run.bench.rounds():
            for target in found:
                with Watch(target.server.tree) as watch:
                    told = load.run(
                        target.server.address, target.narinfos, connections=32, seconds=3, threads=run.bench.workers
                    )
                yield Sample(narinfo, target.server.name, told.per_second, watch.cpu_seconds, watch.peak_pss)
                yield run.bench.time_downloads(nars, target, [*target.nars] * 2, 4)
