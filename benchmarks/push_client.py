"""A client that pushes by itself, so that what it does costs little: for each file a PUT, and its time."""

import hashlib
import http.client
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Barrier, Thread
from typing import Final

from benchmarks import BenchmarkError
from benchmarks.client import Address
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.nar import string, strings

_BLOCK_BYTES: Final = 1 << 20
_TIMEOUT_SECONDS: Final = 300.0
# What servers say of a file that they have taken.
_PUT: Final = frozenset({200, 201, 204})


@dataclass(frozen=True, slots=True)
class File:
    """A file to push: below which place, and its bytes."""

    place: str
    body: bytes


def push_each(address: Address, token: str, files: Sequence[File]) -> list[float]:
    """Milliseconds that each PUT took, one after the other over one connection.

    Raises:
        BenchmarkError: one is refused.
    """
    connection = http.client.HTTPConnection(*address, timeout=_TIMEOUT_SECONDS)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for file in files:
        begin = time.perf_counter()
        connection.request("PUT", file.place, file.body, headers)
        answer = connection.getresponse()
        said = answer.read()
        times.append((time.perf_counter() - begin) * 1000)
        if answer.status not in _PUT:
            raise BenchmarkError(f"{file.place}: {answer.status} {said.decode()!r}")
    connection.close()
    return times


def push_large(address: Address, token: str, base: str, clients: int, size: int) -> float:
    """Seconds in which so many clients push a NAR of this size each, uncompressed, all at once."""
    hashes = [_hash_of(number, size) for number in range(clients)]
    failures: list[Exception] = []
    begin = Barrier(clients + 1)

    def push(number: int) -> None:
        begin.wait()
        try:
            _push_large(address, token, f"{base}/nar/{hashes[number]}.nar", number, size)
        except (BenchmarkError, OSError, http.client.HTTPException) as error:
            failures.append(error)

    threads = [Thread(target=push, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise BenchmarkError(f"a push failed: {failures[0]}")
    return time.perf_counter() - start


def _push_large(address: Address, token: str, place: str, number: int, size: int) -> None:
    connection = http.client.HTTPConnection(*address, timeout=_TIMEOUT_SECONDS)
    length = sum(map(len, _ends(size))) + size
    headers = {"Authorization": f"Bearer {token}", "Content-Length": str(length)}
    connection.request("PUT", place, _large_nar(number, size), headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != 200:
        raise BenchmarkError(f"{place}: {answer.status} {said.decode()!r}")


def _hash_of(number: int, size: int) -> str:
    digest = hashlib.sha256()
    for block in _large_nar(number, size):
        digest.update(block)
    return Hash("sha256", digest.digest()).nix32


def _large_nar(number: int, size: int) -> Iterator[bytes]:
    """A NAR of one file of machine code, in blocks that differ from those of every other number."""
    head, tail = _ends(size)
    yield head
    block = bytearray(hashlib.shake_128(bytes([number])).digest(_BLOCK_BYTES))
    for start in range(0, size, _BLOCK_BYTES):
        block[:8] = start.to_bytes(8, "little")
        yield bytes(block[: size - start])
    yield tail


def _ends(size: int) -> tuple[bytes, bytes]:
    head = strings(b"nix-archive-1", b"(", b"type", b"regular", b"contents") + size.to_bytes(8, "little")
    return head, bytes(-size % 8) + string(b")")
