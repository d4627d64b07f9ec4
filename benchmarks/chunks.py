"""A large NAR kept as chunks beside the same NAR as a whole file, on one server, in one run.

    PYTHONPATH=.:tests python -m benchmarks.chunks DIRECTORY [--mib 1024] [--bucket]

How fast it is made into chunks for each second of CPU, how fast it is downloaded either way, when its first byte comes
(also from a server that has just started), and what fifty clients that have begun and do not read on take of memory.
DIRECTORY is on the disk that is measured; with `--bucket` what is pushed is kept on SeaweedFS on this machine.
"""

import argparse
import asyncio
import hashlib
import http.client
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from seaweed import Bucket, Seaweed, environment

from benchmarks.processes import ProcessTree
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.chunks.frames import compress_chunk
from harmonia_py.chunks.work import Packed
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.nar import Regular, encode
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.wiring.pushing import PushNode

STORE = StoreDir("/nix/store")
PATH = StorePath("26xbg1ndr7hbcncrlf9nhx5is2b25d13-large")
ROUNDS = 5
CLIENTS = 50
_MIB = 1024 * 1024
_LISTENS = re.compile(r"http://127\.0\.0\.1:([0-9]+)")
_CONFIG = """
workers = 2
bind = "127.0.0.1:0"
real_nix_store = "/nowhere/store"
daemon_socket = "/nowhere/socket"
state_directory = "{state}"
[caches.team]
public = true
deduplicate = "{deduplicate}"
{storage}
"""
_STORAGE = """
[storage]
url = "{url}"
redirect_from = "never"
"""


def nar_of(mib: int) -> bytes:
    """A NAR of one file, half of which compresses well, and which names its own path here and there."""
    source = random.Random(1)
    words = [source.randbytes(source.randrange(3, 12)) for _ in range(2000)]
    out = bytearray()
    while len(out) < mib * _MIB:
        out += source.randbytes(32 * 1024)
        out += b"".join(source.choices(words, k=4500))
        if source.random() < 0.1:
            out += f"/nix/store/{PATH}/lib".encode()
    parts = [literal for _, literal, _ in encode([Regular(b"", len(out), executable=False)])]
    return parts[0] + bytes(out) + bytes(-len(out) % 8) + b"".join(parts[1:])[-16:]


@contextmanager
def server(
    directory: Path, bucket: Bucket | None = None, *, deduplicate: str = "files"
) -> Iterator[tuple[int, ProcessTree]]:
    """A server of the state below `directory`, and of a bucket; its port and its processes."""
    config = directory / "harmonia.toml"
    storage = "" if bucket is None else _STORAGE.format(url=bucket.url("kept"))
    config.write_text(_CONFIG.format(state=directory / "state", storage=storage, deduplicate=deduplicate))
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "harmonia_py.cli", "serve", "--config", str(config)],
            stdout=output, stderr=output, start_new_session=True, env=os.environ | environment(),
        )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while (match := _LISTENS.search(log.read_text())) is None:
            if time.monotonic() > until or process.poll() is not None:
                sys.exit(f"chunks: the server does not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield int(match[1]), ProcessTree(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def push(directory: Path, port: int, nar: bytes) -> NarInfo:
    """Push the NAR as zstd."""
    command = [sys.executable, "-m", "harmonia_py.cli", "token", "create", "bench", "--cache", "team"]
    command += ["--allow", "read,push", "--config", str(directory / "harmonia.toml")]
    token = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    data = compress_chunk(nar, 3)
    file_hash = Hash("sha256", hashlib.sha256(data).digest())
    info = PathInfo(store_path=PATH, nar_hash=Hash("sha256", hashlib.sha256(nar).digest()), nar_size=len(nar))
    url = f"nar/{file_hash.nix32}.nar.zst"
    claim = NarInfo(path_info=info, url=url, compression="zstd", file_hash=file_hash, file_size=len(data))
    for place, body in ((url, data), (f"{PATH.hash_part}.narinfo", claim.format(STORE))):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
            connection.request("PUT", f"/team/push/{place}", body, {"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            if answer.status != 200:
                sys.exit(f"chunks: {answer.status} {answer.read()!r}")
    return claim


async def make_chunks(directory: Path, bucket: Bucket | None = None) -> tuple[Packed, float]:
    """Make chunks of all there is; what was done, and the CPU seconds."""
    catalog = SqlCatalog(await SqliteDatabase.open(directory / "state" / "catalog.sqlite"))
    s3 = None if bucket is None else bucket.settings("kept")
    async with PushNode(directory / "state" / "pushed", catalog, STORE, Metrics.alone(), s3=s3) as node:
        row = await catalog.caches.find(CacheName("team"))
        assert row is not None
        packer = node.chunking.packer(node.open_blob)
        due = await catalog.chunks.due(row.id, [row.id], Timestamp(2**40), None, 100)
        began = time.process_time()
        for file in due.files:
            await packer.pack(file)
        done = await packer.flush()
        seconds = time.process_time() - began
        await packer.close()
    await catalog.aclose()
    return done, seconds


def download(port: int, url: str) -> tuple[float, float, int]:
    """Seconds to the first byte of the body, seconds in all, bytes."""
    buffer = bytearray(_MIB)
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
        began = time.perf_counter()
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        if not head.startswith(b"HTTP/1.1 200"):
            sys.exit(f"chunks: {url}: {head[:200]!r}")
        body = len(head.partition(b"\r\n\r\n")[2])
        while not body:
            body = sock.recv_into(buffer)
        first = time.perf_counter() - began
        while count := sock.recv_into(buffer):
            body += count
    return first, time.perf_counter() - began, body


def measure(port: int, tree: ProcessTree, url: str) -> str:
    """A row of the table: the medians of some downloads after one, and memory with clients that stand still."""
    cold = download(port, url)[0]
    cpu = tree.cpu_seconds()
    rounds = [download(port, url) for _ in range(ROUNDS)]
    cpu = (tree.cpu_seconds() - cpu) / ROUNDS
    first, seconds = (statistics.median(one[at] for one in rounds) for at in (0, 1))
    size = rounds[0][2]
    idle = tree.pss()
    clients = []
    for _ in range(CLIENTS):
        sock = socket.create_connection(("127.0.0.1", port), timeout=120)
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sock.recv(65536)
        clients.append(sock)
    time.sleep(1.0)
    more = tree.pss() - idle
    for sock in clients:
        sock.close()
    speed = f"{size / 1e6:.0f} | {size / 1e6 / seconds:.0f} | {cpu:.2f}"
    return f"{speed} | {first * 1e3:.1f} | {cold * 1e3:.0f} | {more / 1e6:.0f}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--mib", type=int, default=1024, help="of the NAR")
    parser.add_argument("--bucket", action="store_true", help="keep what is pushed in a bucket")
    arguments = parser.parse_args()
    directory: Path = arguments.directory.resolve() / "chunks"
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "state").mkdir(parents=True)
    nar = nar_of(arguments.mib)
    with ExitStack() as stack:
        bucket = stack.enter_context(Seaweed(directory / "seaweed")).bucket() if arguments.bucket else None
        compare(directory, nar, bucket)
    shutil.rmtree(directory)
    os.sync()


def compare(directory: Path, nar: bytes, bucket: Bucket | None) -> None:
    """Print the rows of a NAR as a file, and as chunks."""
    print("| | MB | MB/s | CPU s | first byte ms | after a start | 50 clients MB |\n|---|---|---|---|---|---|---|")
    with server(directory, bucket) as (port, tree):
        claim = push(directory, port, nar)
        info = claim.path_info
        url = f"/team/{NarUrl(PATH.hash_part, info.nar_hash, 'zstd')}"
        print(f"| whole file, zstd | {measure(port, tree, url)} |", flush=True)
    done, seconds = asyncio.run(make_chunks(directory, bucket))
    with server(directory, bucket) as (port, tree):
        print(f"| chunks, as zstd | {measure(port, tree, url)} |", flush=True)
    with server(directory, bucket) as (port, tree):
        plain = f"/team/{NarUrl(PATH.hash_part, info.nar_hash, 'none')}"
        print(f"| chunks, as they are | {measure(port, tree, plain)} |", flush=True)
    speed = done.nar_bytes / 1e6 / seconds
    print(f"\nmade into chunks: {done.nar_bytes / 1e6:.0f} MB in {seconds:.1f} CPU seconds, {speed:.0f} MB for each")


if __name__ == "__main__":
    main()
