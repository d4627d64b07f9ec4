"""What a real Nix client sees: copying the closure, and asking for all of it."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import client, load
from benchmarks.bench import Bench, Case, Sample
from benchmarks.closure import TEMPORARY_PREFIX
from benchmarks.nix_store import NixStore, remove_tree
from benchmarks.processes import Watch
from benchmarks.servers import Server, Setting

QUERY_CONNECTIONS = 25  # Nix's own default, http-connections
_LOAD_SECONDS = 3


def copy(bench: Bench) -> Iterator[Sample]:
    """`nix copy --from` of the whole closure into an empty store, signatures checked."""
    for form in ("none", "zstd"):
        case = Case("copy", f"nix copy --from, {form}, warm", "s")
        with bench.all_running(Setting(form, bench.workers)) as targets:
            for target in targets:
                bench.client(client.drain_all, target.server.address, target.nars, bench.workers)
            for _ in bench.rounds(at_most=2):  # Nix takes a minute for the large closure
                for target in targets:
                    bench.check_time()
                    with Watch(target.server.tree) as watch:
                        seconds = copy_closure(bench, target.server)
                    yield Sample(case, target.server.name, seconds, watch.cpu_seconds, watch.peak_pss)


def copy_closure(bench: Bench, server: Server) -> float:
    """Seconds that `nix copy --from` takes for the whole closure, into a store with nothing in it."""
    options = ("--option", "trusted-public-keys", bench.closure.public_key.strip())
    return _in_empty_store(bench, "nix", "copy", "--from", server.url, *options, bench.closure.root)


def _in_empty_store(bench: Bench, *command: str) -> float:
    """Seconds that a Nix command takes in a store with nothing in it, and nothing remembered of any cache."""
    root = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=bench.closure.directory))
    try:
        store = NixStore(root)
        store.run("nix", "path-info", "--all")  # creates the database
        start = time.perf_counter()
        store.run(*command)
        return time.perf_counter() - start
    finally:
        remove_tree(root)


def query(bench: Bench) -> Iterator[Sample]:
    """Closure queries: every narinfo of the closure over 25 connections, and by Nix itself."""
    percentiles = {name: Case("query", f"{QUERY_CONNECTIONS} connections, {name}", "ms") for name in ("p50", "p99")}
    by_nix = Case("query", "nix path-info --recursive", "s")
    with bench.all_running(Setting("zstd", bench.workers), any_form=True) as targets:
        for _ in bench.rounds():
            for target in targets:
                bench.check_time()
                server = target.server
                with Watch(server.tree) as watch:
                    result = load.run(
                        server.address,
                        target.narinfos,
                        connections=QUERY_CONNECTIONS,
                        seconds=_LOAD_SECONDS,
                        threads=bench.workers,
                    )
                yield Sample(percentiles["p50"], server.name, result.p50, watch.cpu_seconds, watch.peak_pss)
                yield Sample(percentiles["p99"], server.name, result.p99)
            for target in targets:
                bench.check_time()
                with Watch(target.server.tree) as watch:
                    seconds = _in_empty_store(
                        bench, "nix", "path-info", "--recursive", "--store", target.server.url, bench.closure.root
                    )
                yield Sample(by_nix, target.server.name, seconds, watch.cpu_seconds, watch.peak_pss)
