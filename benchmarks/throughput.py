"""How many, and how fast: narinfos and NARs over plain HTTP."""

import random
from collections.abc import Callable, Iterator

from benchmarks import client, load
from benchmarks.bench import Bench, Case, Goal, Sample, Target, drop_from_page_cache
from benchmarks.processes import Watch
from benchmarks.servers import Setting

CONNECTIONS = (1, 4, 16)
NARINFO_CONNECTIONS = 32
_LOAD_SECONDS = 4
# More than are asked for in that time.
_ABSENT = 500_000
_MB = 1e6


def narinfo(bench: Bench) -> Iterator[Sample]:
    """Narinfos that were asked for before."""
    plain = Case("narinfo", "warm, 32 connections", "requests/s", more_is_better=True, goal=Goal(1.0))
    logged = Case("narinfo", "warm, 32 connections, access log on", "requests/s", more_is_better=True)
    in_turn = Case("narinfo", "one after the other", "µs each")
    with bench.all_running(Setting("zstd", bench.workers), any_form=True) as targets:
        for target in targets:
            _narinfo_load(bench, plain, target)  # every worker learns every narinfo
        for _ in bench.rounds():
            for target in targets:
                with Watch(target.server.tree) as watch:
                    seconds = bench.client(client.get_each, target.server.address, target.narinfos)
                each = seconds / len(target.narinfos) * 1e6
                yield Sample(in_turn, target.server.name, each, watch.cpu_seconds, watch.peak_pss)
            for target in targets:
                yield _narinfo_load(bench, plain, target)
    with bench.all_running(Setting("zstd", bench.workers, access_log=True), any_form=True) as targets:
        for target in targets:
            _narinfo_load(bench, logged, target)
        for _ in bench.rounds():
            for target in targets:
                yield _narinfo_load(bench, logged, target)


def _narinfo_load(bench: Bench, case: Case, target: Target) -> Sample:
    bench.check_time()
    with Watch(target.server.tree) as watch:
        result = load.run(
            target.server.address,
            target.narinfos,
            connections=NARINFO_CONNECTIONS,
            seconds=_LOAD_SECONDS,
            threads=bench.workers,
        )
    return Sample(case, target.server.name, result.per_second, watch.cpu_seconds, watch.peak_pss)


def absent(bench: Bench) -> Iterator[Sample]:
    """Narinfos that are not there, each asked for once: most of what a client asks a cache for."""
    case = Case("absent", "absent narinfos, 32 connections", "requests/s", more_is_better=True, goal=Goal(1.0))
    targets = absent_narinfos(_ABSENT)
    with bench.all_running(Setting("none", bench.workers), any_form=True) as running:
        for _ in bench.rounds():
            for target in running:
                bench.check_time()
                with Watch(target.server.tree) as watch:
                    result = load.run(
                        target.server.address,
                        targets,
                        connections=NARINFO_CONNECTIONS,
                        seconds=_LOAD_SECONDS,
                        threads=bench.workers,
                        are_absent=True,
                    )
                yield Sample(case, target.server.name, result.per_second, watch.cpu_seconds, watch.peak_pss)


def absent_narinfos(count: int) -> list[str]:
    """Targets that no store has, the same every time."""
    alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
    chosen = random.Random(1)  # nothing is secret
    return [f"/{''.join(chosen.choices(alphabet, k=32))}.narinfo" for _ in range(count)]


def unseen(bench: Bench) -> Iterator[Sample]:
    """Narinfos that this server was never asked for: the store has to be."""
    per_core = Case("unseen", "new narinfos per CPU second", "requests/s", more_is_better=True, goal=Goal(5000, None))
    per_second = Case("unseen", "new narinfos, 32 connections", "requests/s", more_is_better=True)
    targets = [f"/{path[:32]}.narinfo" for path in bench.closure.tiny]
    contenders = [contender for contender in bench.contenders if contender.restarts and contender.name != "nginx"]
    for _ in bench.rounds():
        for contender in contenders:
            with bench.running(contender, Setting("none", bench.workers)) as server:
                with Watch(server.tree) as watch:
                    result = load.run(
                        server.address, targets, connections=NARINFO_CONNECTIONS, seconds=1, threads=bench.workers
                    )
                if result.requests > len(targets):
                    bench.say(f"{server.name} answered all {len(targets)} new narinfos within a second; some twice")
                yield Sample(per_second, server.name, result.per_second, watch.cpu_seconds, watch.peak_pss)
                if watch.cpu_seconds:
                    yield Sample(per_core, server.name, result.requests / watch.cpu_seconds)


def whole_closure(form: str, limit: float) -> Callable[[Bench], Iterator[Sample]]:
    """A section that downloads every NAR of the closure in one form, cold and warm."""

    def section(bench: Bench) -> Iterator[Sample]:
        yield from _warm(bench, form, limit)
        yield from _cold(bench, form)

    return section


def _warm(bench: Bench, form: str, limit: float) -> Iterator[Sample]:
    what = "time with more connections beside that with one"
    slower = Case(form, what, "x", goal=Goal(1.05, None), is_cost=True)  # five in a hundred are noise
    with bench.all_running(Setting(form, bench.workers)) as targets:
        for target in targets:
            bench.client(client.drain_all, target.server.address, target.nars, bench.workers)
        for _ in bench.rounds():
            seconds: dict[tuple[str, int], float] = {}
            for connections in CONNECTIONS:
                case = Case(form, f"warm, {_connections(connections)}", "s", goal=Goal(limit))
                for target in targets:
                    sample = bench.time_downloads(case, target, target.nars, connections)
                    seconds[sample.server, connections] = sample.value
                    yield sample
            for target in targets:
                few, *more = (seconds[target.server.name, connections] for connections in CONNECTIONS)
                yield Sample(slower, target.server.name, max(more) / few)


def _cold(bench: Bench, form: str) -> Iterator[Sample]:
    """A server that has just started, nothing in the page cache, nothing kept from earlier."""
    setting = Setting(form, bench.workers)
    for _ in bench.rounds(at_most=3):
        for connections in CONNECTIONS:
            case = Case(form, f"cold, {_connections(connections)}", "s")
            for contender in bench.contenders:
                if not contender.restarts:
                    continue
                with bench.running(contender, setting) as server:
                    target = bench.resolve(server, form)
                    drop_from_page_cache(contender.files(setting))
                    if target is not None:
                        yield bench.time_downloads(case, target, target.nars, connections)


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def big(bench: Bench) -> Iterator[Sample]:
    """The one big path as it is: how cheaply bytes of a file reach a socket."""
    speed = Case("big", "one big path, identity", "MB/s", more_is_better=True, goal=Goal(0.9))
    cost = Case("big", "its CPU time", "CPU s", goal=Goal(1.0), is_cost=True)
    with bench.all_running(Setting("none", bench.workers)) as targets:
        for target in targets:
            bench.client(client.drain_all, target.server.address, [bench.nar_of(target, bench.closure.big)], 1)
        for _ in bench.rounds():
            for target in targets:
                with Watch(target.server.tree) as watch:
                    seconds, size = bench.client(
                        client.drain_all, target.server.address, [bench.nar_of(target, bench.closure.big)] * 2, 1
                    )
                name = target.server.name
                yield Sample(speed, name, size / seconds / _MB, watch.cpu_seconds, watch.peak_pss)
                if watch.cpu_seconds is not None:
                    yield Sample(cost, name, watch.cpu_seconds / 2)
