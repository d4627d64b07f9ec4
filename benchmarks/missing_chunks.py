"""A rebuild pushed whole, and with missing chunks alone: bytes, and seconds over links of several speeds.

    PYTHONPATH=.:tests python -m benchmarks.missing_chunks CORPUS DIRECTORY

CORPUS is made by `benchmarks.generations`, DIRECTORY is on the disk that is used. Each generation is pushed to a cache
that has those before it: whole files to one with `deduplicate = "files"`, and to one in chunks what is missing. Client
and server share the machine; between them is a link with a bound on what the client sends, and with a round trip.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from benchmarks.chunks import make_chunks, server
from benchmarks.deduplication import nar_of
from benchmarks.nix_store import STORE_DIR, NixStore, Registration
from benchmarks.processes import ProcessTree
from harmonia_py.catalog.bases import MAX_BASES
from harmonia_py.chunks.cutting import Cutter
from harmonia_py.chunks.frames import compress_chunk
from harmonia_py.chunks.sizes import SIZES
from harmonia_py.nix.store_path import HashPart

RATES: Final[tuple[float | None, ...]] = (None, 100.0, 20.0)
"""Of links, in Mbit/s; None for the machine's own."""
ROUND_TRIP_SECONDS: Final = 0.02
_BLOCK: Final = 16 * 1024
# In one direction of a connection: as much as a socket holds.
_BLOCKS: Final = 16

Generations = list[dict[str, list[str]]]


class Link:
    """A link to a server, for all connections together. Enter it: a thread has it.

    Args:
        port: of the server.
        rate: Mbit/s from the client to the server; None for no bound, and no round trip.

    Attributes:
        port: its own.
        sent: bytes from the client to the server.
    """

    def __init__(self, port: int, rate: float | None) -> None:
        self.port = 0
        self.sent = 0
        self._server = port
        self._seconds = 0.0 if rate is None else 8 / (rate * 1e6)
        self._delay = 0.0 if rate is None else ROUND_TRIP_SECONDS / 2
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        listening = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = listening.sockets[0].getsockname()[1]
        self._begun.set()
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # at the end
            to, back = await asyncio.open_connection("127.0.0.1", self._server)
            await asyncio.gather(self._carry(reader, back, is_up=True), self._carry(to, writer, is_up=False))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_BLOCKS)
        arriving = asyncio.create_task(self._arrive(on_the_way, writer))
        while data := await reader.read(_BLOCK):
            now = time.monotonic()
            if is_up:
                self.sent += len(data)
                self._free_at = max(now, self._free_at) + len(data) * self._seconds
                now = self._free_at
                await asyncio.sleep(self._free_at - time.monotonic() - self._delay)
            await on_the_way.put((now + self._delay, data))
        await on_the_way.put((time.monotonic() + self._delay, b""))
        await arriving

    async def _arrive(self, on_the_way: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - time.monotonic())
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()


@dataclass(frozen=True, slots=True)
class Pushed:
    """One push: bytes that the client sent, seconds from its start to its end, CPU seconds of client and of server."""

    sent: int
    seconds: float
    client_seconds: float
    server_seconds: float


def token_of(directory: Path) -> str:
    """A token for the cache of this server."""
    command = [sys.executable, "-m", "harmonia_py.cli", "token", "create", f"bench-{time.time_ns()}", "--cache", "team"]
    command += ["--allow", "read,push", "--config", str(directory / "harmonia.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def push(directory: Path, remote: str, paths: Sequence[str], rate: float | None, kind: str) -> Pushed:
    """Push these paths to a server of the state in `directory`, whose cache is of this kind."""
    with server(directory, deduplicate=kind) as (port, tree), Link(port, rate) as link:
        environment = os.environ | {"HARMONIA_PY_TOKEN": token_of(directory), "NIX_REMOTE": remote}
        before = _cpu_seconds(tree)
        command = [sys.executable, "-m", "harmonia_py.cli", "push", f"http://127.0.0.1:{link.port}/team"]
        command += [*(f"{STORE_DIR}/{path}" for path in paths), "--json"]
        began = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            out, error = process.stdout.read(), process.stderr.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            sys.exit(f"missing_chunks: {error.decode()[-2000:]}{out.decode()[-2000:]}")
        return Pushed(link.sent, seconds, used.ru_utime + used.ru_stime, _cpu_seconds(tree) - before)


def _cpu_seconds(tree: ProcessTree) -> float:
    return tree.cpu_seconds() or 0.0


@contextmanager
def store_of(corpus: Path, directory: Path, generations: Generations) -> Iterator[str]:
    """A Nix store with the paths of these generations; its URL."""
    store = NixStore(directory / "root")
    store.real_store.mkdir(parents=True)
    references: dict[str, list[str]] = {}
    for generation in generations:
        references |= generation
    registrations = []
    for path, others in references.items():
        shutil.copytree(corpus / "store" / path, store.real_store / path, symlinks=True)
        nar_hash, nar_size = store.nar_hash(path)
        registrations.append(Registration(path, nar_hash, nar_size, tuple(sorted([path, *others]))))
    store.register(registrations)
    with store.daemon(directory) as socket:
        yield f"unix://{socket}?root={store.root}"


def measure(
    directory: Path, remote: str, generations: Generations, kind: str
) -> dict[tuple[int, float | None], Pushed]:
    """Push each generation but the first, over each link, to a cache of this kind that has those before."""
    state = directory / kind
    (state / "state").mkdir(parents=True)
    push(state, remote, list(generations[0]), None, kind)
    found: dict[tuple[int, float | None], Pushed] = {}
    for change in range(1, len(generations)):
        if kind == "chunks":
            asyncio.run(make_chunks(state))
        for rate in RATES:
            tried = directory / "tried"
            shutil.copytree(state, tried)
            found[change, rate] = push(tried, remote, list(generations[change]), rate, kind)
            print(kind, change, rate, found[change, rate], flush=True)
            shutil.rmtree(tried)
        if change + 1 < len(generations):
            push(state, remote, list(generations[change]), None, kind)
    return found


def of_bases(corpus: Path, generations: Generations) -> tuple[int, int]:
    """Bytes of the chunks that all changes add to the bases of each path, and those that they add to all chunks."""
    sizes: dict[bytes, int] = {}
    builds: dict[str, list[set[bytes]]] = {}
    seen: set[str] = set()
    to_bases = to_all = 0
    for number, generation in enumerate(generations):
        before = set(sizes)
        for path, references in generation.items():
            if path in seen:
                continue
            seen.add(path)
            cutter = Cutter([HashPart(one[:32]) for one in dict.fromkeys((path, *references))])
            pieces = [*cutter.update(nar_of(corpus / "store" / path)), *cutter.finish()]
            chunks = {sha256(piece).digest(): piece for piece in pieces if len(piece) > SIZES.literal}
            for chunk, piece in chunks.items():
                if chunk not in sizes:
                    sizes[chunk] = len(compress_chunk(piece, 3))
            same = builds.setdefault(path.partition("-")[2], [])
            here = set().union(*same[-MAX_BASES // 2 :])
            if number:
                to_bases += sum(sizes[chunk] for chunk in chunks.keys() - here)
                to_all += sum(sizes[chunk] for chunk in chunks.keys() - before)
            same.append(set(chunks))
    return to_bases, to_all


def report(whole: dict[tuple[int, float | None], Pushed], missing: dict[tuple[int, float | None], Pushed]) -> str:
    """The table, in Markdown; MB are millions of bytes."""
    lines = ["| generation | link | whole MB | missing MB | whole s | missing s | CPU s, client | CPU s, server |"]
    lines.append("|" + "---|" * 8)
    for (change, rate), one in whole.items():
        other = missing[change, rate]
        link = "this machine" if rate is None else f"{rate:.0f} Mbit/s"
        lines.append(
            f"| {change} | {link} | {one.sent / 1e6:.2f} | {other.sent / 1e6:.2f} | {one.seconds:.1f} | "
            f"{other.seconds:.1f} | {one.client_seconds:.1f} and {other.client_seconds:.1f} | "
            f"{one.server_seconds:.1f} and {other.server_seconds:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--generations", type=int, default=3, metavar="N", help="the first ones; 3 unless given")
    parser.add_argument("--bases", action="store_true", help="only tell what is lost as bases have not all chunks")
    arguments = parser.parse_args()
    generations: Generations = json.loads((arguments.corpus / "generations.json").read_text())
    directory: Path = arguments.directory.resolve() / "missing"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    print("load before:", os.getloadavg(), flush=True)
    if arguments.bases:
        to_bases, to_all = of_bases(arguments.corpus, generations)
        print(f"chunks that changes add: {to_bases / 1e6:.2f} MB to bases, {to_all / 1e6:.2f} MB to all")
        return
    generations = generations[: arguments.generations]
    with store_of(arguments.corpus, directory, generations) as remote:
        whole = measure(directory, remote, generations, "files")
        missing = measure(directory, remote, generations, "chunks")
    print(report(whole, missing), "load after:", os.getloadavg())
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
