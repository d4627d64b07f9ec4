"""The memory of a worker while fifty clients download what is larger than memory should be."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from server import INTERPRETER, Server, settings_of
from watched import MEMORY_TOLERANCE, Held, Raw, await_return, memory_of

from harmonia_py.nix.store_path import StorePath

CLIENTS: Final = 50
MIB: Final = 1024 * 1024


def sparse(lab: Lab, size: int) -> StorePath:
    """A file that is nearly all holes; its blocks cost no disk, here and in the store."""
    file = lab.root / "sparse"
    with file.open("wb") as stream:
        stream.truncate(size)
        stream.seek(size // 2)
        stream.write(os.urandom(MIB))
    return lab.add(file)


@pytest.fixture
def server(daemon: Lab, tmp_path: Path) -> Iterator[Server]:
    settings: dict[str, Any] = settings_of(daemon) | {"workers": 1, "stall_timeout": 60}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def download_together(server: Server, target: str, portion: int, portions: int) -> int:
    """Fifty read so many portions, one after the other and each slower than the server; the most memory meanwhile."""
    worker, most = server.processes()[1], 0
    clients = [Raw(server.port, receive_buffer=65536) for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.ask(target)
        heads = [client.head() for client in clients]
        assert {status for status, _ in heads} == {200}
        left = int(heads[0][1]["Content-Length"])
        digests = [sha256() for _ in clients]
        for _ in range(portions):
            count = min(portion, left)
            for client, digest in zip(clients, digests, strict=True):
                digest.update(client.exactly(count))
            left -= count
            most = max(most, memory_of(worker))
        assert len({digest.digest() for digest in digests}) == 1
    finally:
        for client in clients:
            client.leave()
    return most


def url_of(server: Server, path: StorePath) -> str:
    narinfo = server.get(f"/{path.hash_part}.narinfo").body.decode()
    return "/" + next(line.removeprefix("URL: ") for line in narinfo.splitlines() if line.startswith("URL: "))


def test_stays_what_it_was(server: Server, daemon: Lab) -> None:
    path = sparse(daemon, 64 * MIB)
    worker = server.processes()[1]
    # The first downloads start threads, and make a file that is kept.
    for target in (f"/nar/{path.hash_part}.nar", url_of(server, path)) * 2:
        assert server.get(target).status == 200
        # Waits until the file is kept, which the first one did not.
        assert server.get(target, {"Range": "bytes=1-1"}).status == 206
        download_together(server, target, 16384, 4)
    before = await_return(worker, Held.by(worker))
    for target in (f"/nar/{path.hash_part}.nar", url_of(server, path)):
        most = download_together(server, target, 65536, 16)
        assert most < before.memory + MEMORY_TOLERANCE, f"{most / MIB:.1f} MiB, {before.memory / MIB:.1f} before"
    await_return(worker, before, descriptors=4, threads=16)


def test_more_of_them_than_descriptors_are_usually_given(daemon: Lab, tmp_path: Path) -> None:
    """A shell's or a service's usual limit, 1024, was used up by a few hundred downloads; then nothing was accepted."""
    path = sparse(daemon, 64 * MIB)
    settings = settings_of(daemon) | {"workers": 1}
    # A process that is forked for it has the limit of this one, which may have more open.
    limited = ("/bin/sh", "-c", 'ulimit -Sn 128; exec "$0" "$@"', *INTERPRETER)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, daemon.env, settings, interpreter=limited))
        clients = [stack.enter_context(Raw(server.port, receive_buffer=4096)) for _ in range(150)]
        for client in clients:
            client.ask(f"/nar/{path.hash_part}.nar")
        assert {client.head()[0] for client in clients} == {200}
        deadline = time.monotonic() + 30
        while len(Held.by(server.processes()[1]).descriptors) <= 300:  # a file is opened behind its head
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert server.get("/health").status == 200


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stays_what_it_was_also_for_two_gigabytes(server: Server, daemon: Lab) -> None:
    path = sparse(daemon, 2048 * MIB)
    worker = server.processes()[1]
    small = daemon.closure.top
    for target in (f"/nar/{small.hash_part}.nar", url_of(server, small)):
        assert server.get(target).status == 200
    with Raw(server.port) as client:
        client.ask(f"/nar/{path.hash_part}.nar")
        status, headers = client.head()
        assert status == 200
        assert str(client.body_hash(headers)) in server.get(f"/{path.hash_part}.narinfo").body.decode()
    before = Held.by(worker)
    figures = {"before": before.memory}
    identity = f"/nar/{path.hash_part}.nar"
    figures["identity, fifty lag"] = download_together(server, identity, 65536, 32)
    figures["identity, fifty whole"] = whole_together(server, identity)
    # Compressing takes some twenty MiB, for as long as it lasts.
    kept = url_of(server, path)
    assert server.get(kept).status == 200
    assert server.get(kept, {"Range": "bytes=1-1"}).status == 206
    await_return(worker, before, descriptors=4, threads=40)
    figures["zstd, fifty lag"] = download_together(server, kept, 16384, 16)
    figures["zstd, fifty whole"] = whole_together(server, kept)
    figures["after"] = await_return(worker, before, descriptors=4, threads=40).memory
    told = ", ".join(f"{name} {memory / MIB:.1f} MiB" for name, memory in figures.items())
    print(told)
    assert max(figures.values()) < before.memory + MEMORY_TOLERANCE, told


def whole_together(server: Server, target: str) -> int:
    """Fifty read to the end as fast as they can; the most memory meanwhile."""
    received: list[bool] = []

    def read() -> None:
        with Raw(server.port) as client:
            client.ask(target)
            status, headers = client.head()
            received.append(status == 200 and client.discard(headers))

    threads = [threading.Thread(target=read) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    worker, most = server.processes()[1], 0
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
            most = max(most, memory_of(worker))
    assert received == [True] * CLIENTS
    return most
