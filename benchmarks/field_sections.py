"""What `benchmarks.field` measures, one round at a time: the servers take turns within each section."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import client, load, nix_client, servers
from benchmarks.bench import Bench, Case, Sample, Target, drop_from_page_cache
from benchmarks.field_table import HARMONIA
from benchmarks.processes import Watch
from benchmarks.servers import Contender, Server, Setting
from benchmarks.throughput import absent_narinfos

_CONNECTIONS: Final = (1, 4, 16)
_LOAD_SECONDS: Final = 2
_ABSENT: Final = 250_000
_SETTLE_SECONDS: Final = 1.0
_SMALL_BYTES: Final = 200_000
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Run:
    """What every section needs.

    Attributes:
        bench: the closure, the rounds, and the contenders that have the store.
        mirrors: makes mirrors of the upstream at a URL.
    """

    bench: Bench
    mirrors: Callable[[str], list[Contender]]


def _case(what: str, unit: str, *, more_is_better: bool = False) -> Case:
    return Case("field", what, unit, more_is_better)


def start(run: Run) -> Iterator[Sample]:
    """Seconds from the start of a server to its first 200, and the memory of its workers while they are idle."""
    seconds, memory = _case("start to the first 200", "s"), _case("memory of idle workers", "MB")
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
    setting = Setting("none", run.bench.workers)
    for contender in run.bench.contenders:
        with run.bench.running(contender, setting) as server:
            first, warm = "NARs as they are, cold", "NARs as they are, warm"
            yield from _whole(run.bench, contender, server, setting, first=first, warm=warm)


def zstd(run: Run) -> Iterator[Sample]:
    """Every NAR as zstd: as a file of its own, or, where there is none, coded while it is sent."""
    bench, setting = run.bench, Setting("zstd", run.bench.workers)
    for contender in bench.contenders:
        with bench.directory() as directory:
            with bench.running(contender, setting, directory) as server:
                yield from _whole(bench, contender, server, setting, first="zstd, first download", warm="zstd, warm")
            if contender.name == HARMONIA:
                continue  # it keeps no files: the row would be that of its first download
            with bench.running(contender, setting, directory) as server:
                time.sleep(_SETTLE_SECONDS)
                target = _target(bench, server, setting)
                yield _every_nar(bench, target, "zstd, first time after a start", 4, setting)


def _whole(
    bench: Bench, contender: Contender, server: Server, setting: Setting, *, first: str, warm: str
) -> Iterator[Sample]:
    target = _target(bench, server, setting)
    drop_from_page_cache(contender.files(setting))
    yield _every_nar(bench, target, first, 4, setting)
    for connections in _CONNECTIONS:
        yield _every_nar(bench, target, warm, connections, setting)


def _target(bench: Bench, server: Server, setting: Setting) -> Target:
    target = bench.resolve(server, None if server.name == HARMONIA else setting.form)
    assert target is not None
    return target


def _every_nar(bench: Bench, target: Target, what: str, connections: int, setting: Setting) -> Sample:
    bench.check_time()
    coding = "zstd" if setting.form == "zstd" else ""
    seconds, _size = bench.client(client.drain_all, target.server.address, target.nars, connections, coding)
    case = _case(f"{what}, {connections} connection{'s' * (connections > 1)}", "s")
    return Sample(case, target.server.name, seconds)


def big(run: Run) -> Iterator[Sample]:
    """The path of one large file, over one connection."""
    bench = run.bench
    speed = _case("256 MiB as they are", "MB/s", more_is_better=True)
    cost = _case("256 MiB as they are, CPU", "s")
    with bench.all_running(Setting("none", bench.workers)) as targets:
        nars = {target.server.name: [bench.nar_of(target, bench.closure.big)] for target in targets}
        for target in targets:
            bench.client(client.drain_all, target.server.address, nars[target.server.name], 1)
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
        for target in targets:
            yield Sample(case, target.server.name, nix_client.copy_closure(bench, target.server))


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
