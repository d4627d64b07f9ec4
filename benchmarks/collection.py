"""What collecting a million paths costs, and what clients notice of it.

    .venv/bin/python -m benchmarks.collection           # a million paths: twenty minutes, 4 GB; results/collection.md
    .venv/bin/python -m benchmarks.collection --objects 100000 --output /tmp
    .venv/bin/python -m benchmarks.collection --fill /tmp/filled.sqlite        # at any time; then, on a quiet machine:
    .venv/bin/python -m benchmarks.collection --filled /tmp/filled.sqlite      # which uses it up

The references are those of the packages of Debian that this machine knows (`apt-cache dumpavail`), once for each
generation, in which everything has been built anew. A second process looks narinfos up in the same catalog, as a
worker does, a hundred a second.
"""

import argparse
import asyncio
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final

from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Reason, Scope
from harmonia_py.catalog.collector import Collector
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.nix import base32
from harmonia_py.nix.store_path import HashPart
from harmonia_py.storage.disk import DiskBlobs

_FIELD: Final = re.compile(r"^(Package|Depends|Pre-Depends): (.*)$", re.MULTILINE)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_FILE_SIZE: Final = 100_000
_LOOKUPS_SECOND: Final = 100
_NOW: Final = Timestamp(1_700_000_000)
_USED: Final = Timestamp(_NOW - 60 * 86_400)
_PERCENT: Final = 100
_FILES_DELETED: Final = 20_000
# As many as the collector deletes at a time.
_DELETIONS: Final = 1000


@dataclass(frozen=True)
class Latencies:
    """Of look-ups, in milliseconds."""

    count: int
    median: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latencies":
        cuts = quantiles(seconds, n=_PERCENT)
        return cls(len(seconds), 1000 * cuts[49], 1000 * cuts[98])

    def __str__(self) -> str:
        return f"p50 {self.median:.2f} ms, p99 {self.p99:.2f} ms of {self.count}"


def packages() -> dict[str, list[str]]:
    """The packages, each after those that it depends on; what is a circle there is cut."""
    text = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True, timeout=300).stdout
    depends: dict[str, list[str]] = {}
    for stanza in text.split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        if "Package" in fields:
            named = ",".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends")))).split(",")
            depends[fields["Package"]] = [match[0] for one in named if (match := _NAME.match(one.strip()))]
    ordered: dict[str, list[str]] = {}
    for name in depends:
        _visit(name, depends, ordered)
    return ordered


def _visit(name: str, depends: dict[str, list[str]], ordered: dict[str, list[str]]) -> None:
    pending: list[tuple[str, bool]] = [(name, False)]
    seen: set[str] = set()
    while pending:
        one, is_done = pending.pop()
        if is_done:
            ordered.setdefault(one, sorted({other for other in depends[one] if other in ordered}))
        elif one not in ordered and one not in seen:
            seen.add(one)
            pending.append((one, True))
            pending += [(other, False) for other in depends[one] if other in depends and other not in ordered]


def hash_of(text: str) -> str:
    """32 characters of base 32."""
    return base32.encode(sha256(text.encode()).digest()[:20])


def nar_hash_of(text: str) -> str:
    """A hash as the catalog has it."""
    return base32.encode(sha256(text.encode()).digest())


def fill(path: Path, objects: int, going: int) -> None:
    """Fill a catalog with generations of all packages, of which the first `going` were not used for long."""
    graph = packages()
    count = generation = 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma synchronous = off")
        connection.execute("pragma cache_size = -400000")
        while count < objects:
            names = list(graph)[: objects - count]
            hashes = {name: hash_of(f"{generation} {name}") for name in names}
            rows = [(hashes[name], name, nar_hash_of(f"nar {generation} {name}")) for name in names]
            references = [(hashes[one], hashes[other]) for one in names for other in graph[one] if other in hashes]
            _insert(connection, rows, references)
            count, generation = count + len(names), generation + 1
        connection.execute(_STAYS, (going,))
        connection.execute(_LISTINGS)
        connection.execute(_KEEPERS)
        connection.execute("delete from totals")
        for counted in _TOTALS:
            connection.execute(f"insert into totals (cache_id, state, objects, size) {counted}")
        connection.commit()
        connection.execute("pragma wal_checkpoint(truncate)")


def counts(path: Path) -> tuple[int, int]:
    """How many objects and references a catalog has."""
    with closing(sqlite3.connect(path)) as connection:
        return tuple(
            connection.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("objects", "object_references")
        )


_NARS: Final = "insert into nars (nar_hash, nar_size) values (?, ?)"
_FILES: Final = f"""
    insert into nar_files (file_hash, file_size, compression, blob_key, nar_hash, checked_s)
    values (?1, {_FILE_SIZE}, 'zstd', 'nar/' || ?1, ?1, {_USED})
"""
_OBJECTS: Final = f"""
    insert into objects (cache_id, hash_part, name, nar_hash, file_hash, file_size, store_references, signatures, state,
        pushed_by, pushed_s, used_s, aged_from_s)
    values ({DEFAULT_CACHE}, ?1, ?2, ?3, ?3, {_FILE_SIZE}, '', '', 'published', 'tests', {_USED}, {_USED}, {_USED})
"""
# Those of the catalog would have to be counted within ten seconds.
_TOTALS: Final = (
    "select cache_id, state, count(*), sum(file_size) from objects group by cache_id, state",
    "select 0, 'stored', count(*), sum(file_size) from nar_files",
)
_STAYS: Final = f"update objects set used_s = {_NOW - 1000}, aged_from_s = {_NOW - 1000} where rowid > ?"
# A listing of each, as long as that of a small package.
_LISTINGS: Final = f"""
    insert into documents (cache_id, kind, name, size, body, received_s)
    select cache_id, 'ls', hash_part, 300, cast(printf('%.300c', 'x') as blob), {_USED} from objects order by hash_part
"""
_KEEPERS: Final = """
    insert into object_documents (cache_id, hash_part, kind, name)
    select cache_id, hash_part, 'ls', hash_part from objects order by hash_part
"""
_REFERENCES: Final = f"insert into object_references values ({DEFAULT_CACHE}, ?, ?, 0)"


def _insert(
    connection: sqlite3.Connection, rows: list[tuple[str, str, str]], references: list[tuple[str, str]]
) -> None:
    connection.execute("begin")
    connection.executemany(_NARS, [(nar, 2 * _FILE_SIZE) for _, _, nar in rows])
    connection.executemany(_FILES, [(nar,) for _, _, nar in rows])
    connection.executemany(_OBJECTS, rows)
    connection.executemany(_REFERENCES, references)
    connection.execute("commit")


def look_up(path: Path, hash_parts: Sequence[str], begun: Event, ended: Event, told: Any) -> None:
    """Look narinfos up until `ended`, in a process of its own; puts the latencies, in seconds, into `told`."""

    async def work() -> list[float]:
        catalog = SqlCatalog(await SqliteDatabase.open(path))
        latencies: list[float] = []
        following = time.perf_counter()
        for hash_part in _for_ever(hash_parts):
            if ended.is_set():
                break
            before = time.perf_counter()
            await catalog.objects.find(DEFAULT_CACHE, HashPart(hash_part))
            latencies.append(time.perf_counter() - before)
            begun.set()
            following += 1 / _LOOKUPS_SECOND
            await asyncio.sleep(max(0.0, following - time.perf_counter()))
        await catalog.aclose()
        return latencies

    told.put(asyncio.run(work()))


def _for_ever(values: Sequence[str]) -> Iterator[str]:
    while True:
        yield from values


class Looking:
    """A process that looks narinfos up."""

    def __init__(self, path: Path, hash_parts: Sequence[str]) -> None:
        context = get_context("spawn")
        self._begun, self._ended, self._told = context.Event(), context.Event(), context.Queue()
        arguments = (path, hash_parts, self._begun, self._ended, self._told)
        self._process = context.Process(target=look_up, args=arguments)
        self._process.start()
        self._begun.wait(60)

    def end(self) -> Latencies:
        """How long each took."""
        self._ended.set()
        latencies = self._told.get(timeout=60)
        self._process.join(60)
        return Latencies.of(latencies)


async def delete_nothing(_keys: Sequence[str]) -> list[str]:
    """There are no bytes."""
    return []


async def collect(path: Path) -> tuple[int, int, float, float]:
    """Condemn and remove what was not used for long; how many objects each, and in how many seconds each."""
    catalog = SqlCatalog(await SqliteDatabase.open(path))
    collector = Collector(catalog.collection, catalog.garbage, delete_nothing)
    scope = Scope(cache=DEFAULT_CACHE, settings=CacheSettings(keep_unused=86_400, grace=0), deleted=False)
    begun = time.monotonic()
    condemned = await collector.condemn_unused(scope, Reason.UNUSED, Timestamp(_NOW - 86_400), _NOW)
    half = time.monotonic()
    done = await collector.remove(scope, _NOW, _NOW)
    end = time.monotonic()
    await catalog.aclose()
    return condemned, done.removed, half - begun, end - half


async def summed(path: Path) -> float:
    """Seconds until it is known how much a cache has, which each look at `max_size` asks."""
    catalog = SqlCatalog(await SqliteDatabase.open(path))
    begun = time.monotonic()
    await catalog.objects.size(DEFAULT_CACHE)
    seconds = time.monotonic() - begun
    await catalog.aclose()
    return seconds


async def deleted(directory: Path) -> float:
    """Seconds that deleting `_FILES_DELETED` small files takes, in portions of a collection."""
    keys = [BlobKey(f"nar/{nar_hash_of(str(number))}.nar.zst") for number in range(_FILES_DELETED)]
    async with DiskBlobs(directory) as blobs:
        for start in range(0, len(keys), 500):
            await asyncio.gather(*(blobs.put(key, b"file", {}) for key in keys[start : start + 500]))
        begun = time.monotonic()
        for start in range(0, len(keys), _DELETIONS):
            await asyncio.gather(*map(blobs.delete, keys[start : start + _DELETIONS]))
        return time.monotonic() - begun


async def started(path: Path) -> float:
    """Seconds until a catalog that is there has told of one path."""
    begun = time.monotonic()
    catalog = SqlCatalog(await SqliteDatabase.open(path))
    await catalog.objects.find(DEFAULT_CACHE, HashPart(hash_of("0 nothing")))
    seconds = time.monotonic() - begun
    await catalog.aclose()
    return seconds


def megabytes() -> float:
    """The most memory that this process has taken so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--going", type=int, default=300_000, help="so many of them were not used for long, and go")
    parser.add_argument("--seconds", type=float, default=20.0, help="of look-ups while nothing else is done")
    parser.add_argument("--directory", type=Path, help="where the catalog is made; unset means a temporary one")
    parser.add_argument("--fill", type=Path, help="make this catalog, and do nothing else")
    parser.add_argument("--filled", type=Path, help="use up this catalog instead of making one")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.directory) as directory:
        path = options.fill or options.filled or Path(directory, "catalog.sqlite")
        if options.filled is None:
            asyncio.run(started(path))
            _in_process(fill, path, options.objects, options.going)
        objects, edges = _in_process(counts, path)
        if options.fill is not None:
            return 0
        size = path.stat().st_size
        start = asyncio.run(started(path))
        summing = asyncio.run(summed(path))
        hash_parts = [hash_of(f"0 {name}") for name in list(packages())[:20_000:7]]
        looking = Looking(path, hash_parts)
        time.sleep(options.seconds)
        idle = looking.end()
        before = megabytes()
        looking = Looking(path, hash_parts)
        condemned, removed, condemning, removing = asyncio.run(collect(path))
        busy = looking.end()
        after = megabytes()
        deleting = asyncio.run(deleted(Path(directory, "files")))
    machine = f"{os.cpu_count()} cores; Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}"
    graph = f"{objects:,} paths with {edges:,} references: the packages of Debian, in generations"
    going = f"{condemned:,} were not used for long, and go"
    rates = condemned / condemning, removed / removing, removed / (condemning + removing)
    lines = [
        "# Collecting a large cache",
        "",
        f"{graph}, of which {going}; the catalog has {size / 1e9:.2f} GB; {machine}.",
        "",
        "| what | measured |",
        "|---|---|",
        f"| opening the catalog, and the first path | {start * 1000:.0f} ms |",
        f"| look-ups by another process, nothing else done | {idle} |",
        f"| look-ups by another process, while these are collected | {busy}: {busy.p99 / idle.p99:.2f} times |",
        f"| condemned | {condemned:,} paths in {condemning:.1f} s: {rates[0]:,.0f} a second |",
        f"| looked at again, and rows removed | {removed:,} paths in {removing:.1f} s: {rates[1]:,.0f} a second |",
        f"| both | {rates[2]:,.0f} paths a second |",
        f"| files deleted | {_FILES_DELETED:,} in {deleting:.1f} s: {_FILES_DELETED / deleting:,.0f} a second |",
        f"| how much a cache has, which each look at `max_size` asks | {summing * 1000:.1f} ms |",
        f"| memory of the collecting process before and after, at most | {before:.0f} MB, {after:.0f} MB |",
        "",
    ]
    (options.output / "collection.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


def _in_process(work: Any, *arguments: Any) -> Any:
    """What `work` returns in a process of its own: its memory is not counted here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


if __name__ == "__main__":
    sys.exit(main())
