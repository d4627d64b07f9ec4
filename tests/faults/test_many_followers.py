"""Fifteen hundred clients that follow a download which stands still: the worker has time for everything else."""

import asyncio
import os
import resource
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from fault_upstream import KEY, Connection, FaultUpstream, Package, Speak, body, package
from server import Server

CLIENTS: Final = 1500
# Of one address each; a client may have 256 connections.
CLIENTS_OF_ONE: Final = 200
# Of everything that is asked meanwhile. The starved worker took 13 s for `/health`.
MAX_SECONDS: Final = 5.0
# Of a core, over `MEASURED_SECONDS`: polling took 60 % for 300 followers.
MAX_SHARE: Final = 0.2
MEASURED_SECONDS: Final = 2.0


def stalled(file: bytes) -> Speak:
    """All of `file` but its end, which never comes."""

    async def speak(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(file) + file[:-1000])
        await asyncio.sleep(3600)

    return speak


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_health_and_narinfos_are_answered_at_once_and_no_processor_is_kept_busy(tmp_path: Path) -> None:
    """Each follower looked at the growing file by itself, so 1,500 of them starved `/health` for 13 s."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384), most))
    one = package(size=100_000, compression="none")
    async with FaultUpstream() as upstream:
        upstream.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text)
        upstream.answers[f"/{one.path}"] = stalled(one.file)
        settings = {
            "workers": 1,
            "daemon_socket": "/nowhere/socket",
            "real_nix_store": "/nowhere/store",
            "mirror": {"min_free": 0},
            "upstream": [
                {"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)], "stall_timeout": 600.0}
            ],
        }
        await asyncio.to_thread(_follow, tmp_path, settings, one)


def _follow(root: Path, settings: dict[str, object], one: Package) -> None:
    with Server(root, os.environ, settings) as server, ExitStack() as clients:
        [worker] = server.processes()[1:]
        targets = ("/health", f"/{one.hash_part}.narinfo", "/nix-cache-info")
        for number in range(CLIENTS):
            _read_what_there_is(clients, server.port, f"/{one.our_url}", number, len(one.file) - 1000)
        slowest, asked = 0.0, 0
        began, cpu = time.monotonic(), cpu_seconds(worker)
        while time.monotonic() < began + MEASURED_SECONDS:
            before = time.monotonic()
            assert server.get(targets[asked % 3]).status == 200
            slowest, asked = max(slowest, time.monotonic() - before), asked + 1
            time.sleep(0.05)
        share = (cpu_seconds(worker) - cpu) / (time.monotonic() - began)
        print(f"{asked} answers, the slowest after {slowest * 1000:.0f} ms; {share:.0%} of a core")
        assert slowest < MAX_SECONDS
        assert share < MAX_SHARE


def _read_what_there_is(clients: ExitStack, port: int, target: str, number: int, size: int) -> None:
    client = clients.enter_context(socket.socket())
    client.settimeout(30)
    client.bind((f"127.0.1.{1 + number // CLIENTS_OF_ONE}", 0))
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(65536)
        assert data, head
        head += data
    head, _, rest = head.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    left = size - len(rest)
    while left > 0:
        data = client.recv(65536)
        assert data
        left -= len(data)
