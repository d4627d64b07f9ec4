"""What collecting a million paths costs, and what clients notice of it.

    .venv/bin/python -m benchmarks.collection           # a million paths: twenty minutes, 4 GB; results/collection.md
    .venv/bin/python -m benchmarks.collection --objects 100000 --output /tmp
    .venv/bin/python -m benchmarks.collection --fill /tmp/filled.sqlite        # at any time; then, on a quiet machine:
    .venv/bin/python -m benchmarks.collection --filled /tmp/filled.sqlite      # which uses it up

The catalog is that of `package_catalog`. A second process looks narinfos up in it, as a worker does, 100 a second.
`--at-most 25` ends each phase after so many seconds, for a machine that is quiet only for a while.
"""

import argparse
import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.package_catalog import NOW, counts, fill, hash_of, nar_hash_of, packages
from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Reason, Scope
from harmonia_py.catalog.collector import Collector
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.nix.store_path import HashPart
from harmonia_py.storage.disk import DiskBlobs

_LOOKUPS_SECOND: Final = 100
_SCOPE: Final = Scope(cache=DEFAULT_CACHE, settings=CacheSettings(keep_unused=86_400, grace=0), deleted=False)
_PERCENT: Final = 100
_FILES_DELETED: Final = 20_000
# As many as the collector deletes at a time.
_DELETIONS: Final = 1000
_TABLES: Final = ("objects", "object_references", "object_documents", "documents", "nar_files", "nars")


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


@dataclass(frozen=True)
class Work:
    """Paths that were done, in how many seconds, in how many of a processor, and the most MB before and after.

    Attributes:
        rows: of all tables that went with the paths.
    """

    paths: int
    seconds: float
    of_a_processor: float
    before: float
    after: float
    rows: int = field(default=0, kw_only=True)

    @property
    def memory(self) -> str:
        """For the table."""
        return f"{self.before:.0f} MB, {self.after:.0f} MB"

    def __str__(self) -> str:
        rate, of_a_processor = self.paths / self.seconds, self.paths / self.of_a_processor
        took = f"{self.paths:,} paths in {self.seconds:.1f} s"
        told = f"{took}: {rate:,.0f} a second, {of_a_processor:,.0f} for each second of a processor"
        if not self.rows:
            return told
        each = f"{self.rows / max(1, self.paths):.1f} for each path"
        return f"{told}; of their rows, {each}, {self.rows / self.seconds:,.0f} a second"


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


def work_on(path: Path, what: str, limit: float) -> Work:
    """Condemn or remove, for so many seconds at most; for a process of its own, whose memory is told."""
    return asyncio.run((condemn if what == "condemn" else remove)(path, limit))


async def condemn(path: Path, limit: float) -> Work:
    """Condemn what was not used for long."""
    async with _collecting(path) as (catalog, collector):
        before = (await catalog.objects.size(DEFAULT_CACHE)).condemned
        with _timed() as took, suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await collector.condemn_unused(_SCOPE, Reason.UNUSED, Timestamp(NOW - 86_400), NOW)
        return Work((await catalog.objects.size(DEFAULT_CACHE)).condemned - before, *took)


async def remove(path: Path, limit: float) -> Work:
    """Look again at what is condemned, and remove its rows."""
    rows = rows_of_paths(path)
    async with _collecting(path) as (catalog, collector):
        before = (await catalog.objects.size(DEFAULT_CACHE)).objects
        with _timed() as took, suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await collector.remove(_SCOPE, NOW, NOW)
        done = before - (await catalog.objects.size(DEFAULT_CACHE)).objects
    return Work(done, *took, rows=rows - rows_of_paths(path))


def rows_of_paths(path: Path) -> int:
    """The rows of all tables whose rows go with a path."""
    with closing(sqlite3.connect(path)) as connection:
        return sum(int(connection.execute(f"select count(*) from {table}").fetchone()[0]) for table in _TABLES)


@asynccontextmanager
async def _collecting(path: Path) -> AsyncIterator[tuple[SqlCatalog, Collector]]:
    catalog = SqlCatalog(await SqliteDatabase.open(path))
    try:
        yield catalog, Collector(catalog.collection, catalog.garbage, delete_nothing)
    finally:
        await catalog.aclose()


@contextmanager
def _timed() -> Iterator[list[float]]:
    """The figures of `Work`, once the block has ended."""
    took: list[float] = []
    begun, used, before = time.monotonic(), time.process_time(), megabytes()
    yield took
    took += [time.monotonic() - begun, time.process_time() - used, before, megabytes()]


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
    """The most memory that this process has taken so far. `getrusage` tells that of the process which made it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> int:
    """Measure, and write what was found."""
    options = _options()
    with TemporaryDirectory(dir=options.directory) as directory:
        path = options.fill or options.filled or Path(directory, "catalog.sqlite")
        if options.filled is None:
            asyncio.run(started(path))
            _in_process(fill, path, options.objects, options.going)
        if options.fill is None:
            text = _measured(path, Path(directory), options)
            (options.output / "collection.md").write_text(text)
            print(text)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--going", type=int, default=300_000, help="so many of them were not used for long, and go")
    parser.add_argument("--seconds", type=float, default=20.0, help="of look-ups while nothing else is done")
    parser.add_argument("--at-most", type=float, default=3600.0, help="seconds of condemning, and of removing")
    parser.add_argument("--directory", type=Path, help="where the catalog is made; unset means a temporary one")
    parser.add_argument("--fill", type=Path, help="make this catalog, and do nothing else")
    parser.add_argument("--filled", type=Path, help="use up this catalog instead of making one")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def _measured(path: Path, directory: Path, options: argparse.Namespace) -> str:
    """The results."""
    objects, edges = _in_process(counts, path)
    size = path.stat().st_size
    start, summing = asyncio.run(started(path)), asyncio.run(summed(path))
    hash_parts = [hash_of(f"0 {name}") for name in list(packages())[:20_000:7]]
    looking = Looking(path, hash_parts)
    time.sleep(options.seconds)
    idle = looking.end()
    condemned, while_condemning = _beside_look_ups("condemn", path, hash_parts, options.at_most)
    removed, while_removing = _beside_look_ups("remove", path, hash_parts, options.at_most)
    deleting = asyncio.run(deleted(directory / "files"))
    machine = f"{os.cpu_count()} cores; Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}"
    graph = f"{objects:,} paths with {edges:,} references: the packages of Debian, in generations"
    beside = [f"{busy}: {busy.p99 / idle.p99:.2f} times" for busy in (while_condemning, while_removing)]
    rows = [
        ("opening the catalog, and the first path", f"{start * 1000:.0f} ms"),
        ("look-ups by another process, nothing else done", str(idle)),
        ("look-ups by another process, while paths are condemned", beside[0]),
        ("look-ups by another process, while rows are removed", beside[1]),
        ("condemned", str(condemned)),
        ("looked at again, and rows removed", str(removed)),
        ("files deleted", f"{_FILES_DELETED:,} in {deleting:.1f} s: {_FILES_DELETED / deleting:,.0f} a second"),
        ("how much a cache has, which each look at `max_size` asks", f"{summing * 1000:.1f} ms"),
        ("memory of a process before and after it condemned, at most", condemned.memory),
        ("memory of a process before and after it removed, at most", removed.memory),
    ]
    lines = [
        "# Collecting a large cache",
        "",
        f"{graph}; the catalog has {size / 1e9:.2f} GB; {machine}.",
        "",
        "| what | measured |",
        "|---|---|",
        *(f"| {what} | {measured} |" for what, measured in rows),
        "",
    ]
    return "\n".join(lines)


def _beside_look_ups(what: str, path: Path, hash_parts: Sequence[str], limit: float) -> tuple[Work, Latencies]:
    looking = Looking(path, hash_parts)
    done = _in_process(work_on, path, what, limit)
    return done, looking.end()


def _in_process(work: Any, *arguments: Any) -> Any:
    """What `work` returns in a process of its own: its memory is not counted here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


if __name__ == "__main__":
    sys.exit(main())
