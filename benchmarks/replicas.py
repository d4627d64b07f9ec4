"""What a catalog in PostgreSQL costs: narinfos that a replica was not asked for before, its start, its memory, pushes.

    PYTHONPATH=tests:. .venv/bin/python -m benchmarks.replicas      # most of the time is for the rows; prints Markdown
    PYTHONPATH=tests:. .venv/bin/python -m benchmarks.replicas --objects 10000
    PYTHONPATH=tests:. .venv/bin/python -m benchmarks.replicas --database postgresql://…    # filled by an earlier run

PostgreSQL is that of the tests, on this machine; servers, clients and PostgreSQL share its processors. Each server has
one worker.
"""

import argparse
import asyncio
import http.client
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from catalogs import NOW, publication
from postgresql import PostgreSQL
from server import INTERPRETER, Server

from benchmarks.postgresql_rows import fill, hash_part
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.object_rows import OBJECT
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.postgresql.sql import cast
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import Database

# The cache at /.
CACHE: Final = 3
ASKED: Final = 1000
REPLICAS: Final = 3
_CLIENTS: Final = 16
_PUBLISHED: Final = 600
# To import the program, and to connect.
_READY_SECONDS: Final = 60.0


def main() -> int:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--database", metavar="URL", help="has so many objects already")
    options = parser.parse_args()
    with _database(options.database, options.objects) as url:
        say("what", "figure")
        say("---", "---")
        asyncio.run(sizes(url))
        parts = [hash_part(number) for number in random.Random(1).sample(range(1, options.objects), 3 * ASKED)]
        asyncio.run(bare(url, parts[:ASKED]))
        with tempfile.TemporaryDirectory() as directory:
            replica(Path(directory), url, parts[ASKED : 2 * ASKED])
            several(Path(directory), url, parts[2 * ASKED :])
    with PostgreSQL("fsync=on") as server:
        publications(server)
    return 0


def say(what: str, figure: str) -> None:
    """A line of the table."""
    print(f"| {what} | {figure} |", flush=True)


@contextmanager
def _database(url: str | None, objects: int) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with PostgreSQL("shared_buffers=256MB", "max_wal_size=4GB") as server:
        url = server.database()

        async def fill_it() -> None:
            connection = await Address(url).connect()
            await fill(connection, CACHE, objects, now=int(time.time()))
            connection.terminate()

        asyncio.run(fill_it())
        yield url


async def sizes(url: str) -> None:
    """Bytes of a path, with all that it has in tables and indexes."""
    connection = await Address(url).connect()
    objects = await connection.fetchval("select count(*) from objects")
    size = await connection.fetchval("select pg_database_size(current_database())")
    references = await connection.fetchval("select count(*) from object_references")
    say("objects, references", f"{objects}, {references}")
    say("the database, bytes for each object", f"{size / 1e9:.2f} GB, {size / objects:.0f}")
    rows = await connection.fetch(
        "select relname, pg_table_size(oid), pg_indexes_size(oid) from pg_class where relkind = 'r'"
        " and relnamespace = 'public'::regnamespace order by pg_total_relation_size(oid) desc limit 4"
    )
    for name, table, indexes in rows:
        say(f"`{name}`: table, indexes, for each object", f"{table / objects:.0f}, {indexes / objects:.0f} bytes")
    connection.terminate()


async def bare(url: str, parts: Sequence[str]) -> None:
    """The look-up alone, over a connection that is held."""
    connection = await Address(url).connect()
    sql = cast(OBJECT, (CACHE, ""))
    times = []
    for part in parts:
        begin = time.perf_counter()
        await connection.fetch(sql, CACHE, part)
        times.append(time.perf_counter() - begin)
    say("the row of a narinfo, asyncpg alone: p50, p99", both(times))
    connection.terminate()


def replica(root: Path, url: str, parts: Sequence[str]) -> None:
    """One replica: its start, its memory, narinfos that it was not asked for before, and again."""
    begin = time.perf_counter()
    with _server(root / "one", url) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        assert _get(connection, "/nix-cache-info") == 200
        say("start, from exec to the first 200", f"{time.perf_counter() - begin:.2f} s")
        time.sleep(5.0)
        say("idle, all processes (PSS)", f"{_pss(server.processes()):.0f} MB")
        say("narinfo, cold: p50, p99", both(_ask(connection, parts)))
        say("narinfo, warm: p50, p99", both(_ask(connection, parts)))


def several(root: Path, url: str, parts: Sequence[str]) -> None:
    """Cold narinfos a second that several clients get of one replica, and of three."""
    for count in (1, REPLICAS):
        with ExitStack() as stack:
            servers = [stack.enter_context(_server(root / f"{count}-{number}", url)) for number in range(count)]
            seconds = asyncio.run(_ask_all([server.port for server in servers], parts))
            say(f"cold narinfos of {count} replicas, {_CLIENTS} clients", f"{len(parts) / seconds:.0f} a second")


async def _ask_all(ports: Sequence[int], parts: Sequence[str]) -> float:
    left = list(parts)

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left:
            writer.write(f"GET /{left.pop()}.narinfo HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client(ports[number % len(ports)]) for number in range(_CLIENTS)))
    return time.perf_counter() - begin


def publications(server: PostgreSQL) -> None:
    """Paths published a second, each durable, by one process and by three, for 16 clients each; and with SQLite."""
    with tempfile.TemporaryDirectory() as directory:
        span = asyncio.run(_publish(SqliteDatabase.open(Path(directory, "catalog.sqlite")), range(_PUBLISHED)))
        say("published, SQLite, one process", _rate([span]))
    for count in (1, REPLICAS):
        context = get_context("spawn")
        barrier = context.Barrier(count)
        with ProcessPoolExecutor(count, context, initializer=_begin_together, initargs=(barrier,)) as processes:
            url = server.database()
            parts = [range(number, _PUBLISHED, count) for number in range(count)]
            spans = [processes.submit(_publish_in_postgresql, url, part) for part in parts]
            say(f"published, PostgreSQL, {count} writers", _rate([span.result() for span in spans]))


def _rate(spans: Sequence[tuple[float, float]]) -> str:
    """Of all publications, from the first one's begin to the last one's end: when each process began and ended."""
    begins, ends = zip(*spans, strict=True)
    return f"{_PUBLISHED / (max(ends) - min(begins)):.0f} a second"


# Of the processes that publish together, for none begins before all are ready.
_together: Barrier | None = None


def _begin_together(barrier: Barrier) -> None:
    global _together  # noqa: PLW0603  # a process of a pool has no other place for what is made for it
    _together = barrier


def _publish_in_postgresql(url: str, numbers: Sequence[int]) -> tuple[float, float]:
    return asyncio.run(_publish(PostgresDatabase.open(Address(url)), numbers))


async def _publish(opening: Awaitable[Database], numbers: Sequence[int]) -> tuple[float, float]:
    """Publish what has these numbers; when it began and ended, by a clock that all processes share."""
    catalog = SqlCatalog(await opening)
    left = list(numbers)

    async def publish(name: str) -> None:
        await catalog.objects.publish(publication(CACHE, name), now=NOW)  # type: ignore[arg-type]  # an id

    async def client() -> None:
        while left:
            await publish(f"path-{left.pop()}")

    # Its connections are there, and what is compiled when it is first needed.
    await asyncio.gather(*(publish(f"first-{numbers[0]}-{number}") for number in range(_CLIENTS)))
    if _together is not None:
        _together.wait(_READY_SECONDS)
    begin = time.monotonic()
    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    end = time.monotonic()
    await catalog.aclose()
    return begin, end


def _server(root: Path, url: str) -> Server:
    root.mkdir()
    settings: dict[str, Any] = {
        "workers": 1,
        "compression": "none",
        "sign": False,
        "access_log": False,
        "daemon_socket": str(root / "none"),
        "nix_db_path": str(root / "none.sqlite"),
        "caches": {"default": {}},
        "storage": {"scrub_every": "never"},  # there are no files
        "database": {"url": url},
    }
    return Server(root, dict(os.environ), settings, interpreter=INTERPRETER)


def _ask(connection: http.client.HTTPConnection, parts: Sequence[str]) -> list[float]:
    times = []
    for part in parts:
        begin = time.perf_counter()
        status = _get(connection, f"/{part}.narinfo")
        times.append(time.perf_counter() - begin)
        assert status == 200, status
    return times


def _get(connection: http.client.HTTPConnection, place: str) -> int:
    connection.request("GET", place)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def _pss(processes: Sequence[int]) -> float:
    """Megabytes, what is shared divided among those that share it."""
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def both(times: Sequence[float]) -> str:
    """The median and the 99th percentile, in milliseconds."""
    return f"{statistics.median(times) * 1e3:.2f}, {sorted(times)[int(0.99 * len(times))] * 1e3:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
