"""What serving costs by the number of store paths: `python -m benchmarks.growth`.

Each size is a store of its own whose paths are files of a few bytes. It is registered in the store's database directly:
`nix-store --load-db` would take minutes for a million paths.
"""

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from benchmarks import BenchmarkError, client, load, report, servers
from benchmarks.bench import Case, Sample
from benchmarks.closure import cache_directory
from benchmarks.nix_store import STORE_DIR, NixStore, nar_hash_of_text, remove_tree
from benchmarks.run import PROJECT, RESULTS
from benchmarks.servers import Server, Setting
from benchmarks.throughput import absent_narinfos
from harmonia_py.nix import base32

ASKED: Final = 300
_LOAD_SECONDS: Final = 2
_ABSENT: Final = 250_000
# Until each worker has looked at the store directory once.
_SETTLE_SECONDS: Final = 3.0
_BATCH: Final = 10_000
_MB: Final = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--paths", default="1000,100000,1000000", help="how many store paths (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the server (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS / "growth.md", help="(%(default)s)")
    options = parser.parse_args(arguments)
    begin, before = time.monotonic(), os.getloadavg()[0]

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    counts = [int(text) for text in options.paths.split(",")]
    try:
        samples = [sample for count in counts for sample in _measure(count, options.rounds, options.workers, say)]
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    text = f"{format_growth(samples, counts)}\n{report.describe_machine(options.workers, before)}\n"
    print(text)
    options.output.write_text(text)
    return 0


@dataclass(frozen=True, slots=True)
class Grown:
    """A store of many small paths.

    Attributes:
        store: where they are.
        count: how many there are.
        key: signs what is served of it.
    """

    store: NixStore
    count: int
    key: Path

    def names(self) -> Iterator[str]:
        """The base name of every path, in the order in which they were made."""
        for number in range(self.count):
            name = f"grown-{number}"
            yield f"{base32.encode(sha256(name.encode()).digest()[:20])}-{name}"


def _prepare(count: int, say: Callable[[str], None]) -> Grown:
    directory = cache_directory() / f"growth-{count}"
    grown = Grown(NixStore(directory / "root"), count, directory / "key.secret")
    if grown.key.exists():
        return grown
    say(f"making a store of {count} paths")
    remove_tree(directory)  # what a run that was cut has left
    grown.store.real_store.mkdir(parents=True)
    for name in grown.names():
        (grown.store.real_store / name).write_text(name)
    grown.store.run("nix", "path-info", "--all")  # creates the database
    with closing(sqlite3.connect(grown.store.root / "nix/var/nix/db/db.sqlite")) as connection, connection:
        rows = (_row(name) for name in grown.names())
        while batch := list(islice(rows, _BATCH)):
            connection.executemany(
                "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, ?)", batch
            )
    secret = grown.store.run("nix", "key", "generate-secret", "--key-name", "bench-1")
    partial = grown.key.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(secret)
    partial.rename(grown.key)
    return grown


def _row(name: str) -> tuple[str, str, int]:
    digest, size = nar_hash_of_text(name)
    return f"{STORE_DIR}/{name}", f"sha256:{digest}", size


def _measure(count: int, rounds: int, workers: int, say: Callable[[str], None]) -> Iterator[Sample]:
    grown = _prepare(count, say)
    names = list(grown.names())
    setting = Setting("none", workers)
    asked = [f"/{name[:32]}.narinfo" for name in names[:: max(1, count // ASKED)]][:ASKED]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harmonia-bench-")))
        socket = stack.enter_context(grown.store.daemon(directory))
        tree = servers.snapshot(PROJECT, directory / "tree")
        for number in range(rounds):
            say(f"{count} paths, round {number + 1}")
            place = directory / str(number)
            place.mkdir()
            with servers.on_store(place, tree, grown.store, socket, grown.key, setting=setting) as server:
                yield from _one(server, str(count), asked, workers)


def _one(server: Server, name: str, asked: Sequence[str], workers: int) -> Iterator[Sample]:
    assert server.started_seconds is not None
    assert server.tree is not None
    yield Sample(Case("growth", "start to the first 200", "s"), name, server.started_seconds)
    time.sleep(_SETTLE_SECONDS)
    cold = client.drain_all(server.address, asked, 16)[0] / len(asked)
    yield Sample(Case("growth", "cold narinfos, 16 connections", "µs each"), name, cold * 1e6)
    for what, targets, are_absent in (
        ("warm narinfos, 32 connections", asked, False),
        ("absent narinfos, 32 connections", absent_narinfos(_ABSENT), True),
    ):
        result = load.run(
            server.address, targets, connections=32, seconds=_LOAD_SECONDS, threads=workers, are_absent=are_absent
        )
        yield Sample(Case("growth", what, "requests/s"), name, result.per_second)
    yield Sample(Case("growth", "memory afterwards", "MB"), name, server.tree.pss() / _MB)


def format_growth(samples: Sequence[Sample], counts: Sequence[int]) -> str:
    """A Markdown table with a column for each size, medians over the rounds."""
    return report.format_columns(samples, {str(count): f"{count:,} paths" for count in counts})


if __name__ == "__main__":
    sys.exit(main())
