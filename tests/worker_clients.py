"""Clients of which one knows the worker: which process has a connection is in `/proc`.

async with AsyncExitStack() as stack:
    clients = await connect(server, stack)   # of more than one worker
    clients[0].worker                        # its process id
    await clients[0].get("/nix-cache-info")  # 200
"""

import asyncio
import contextlib
import http.client
import time
from contextlib import AsyncExitStack
from pathlib import Path

from server import Server


class Client:
    """One connection that stays open, and so one worker."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._connection.connect()
        self.worker = worker_of(server, self._connection.sock.getsockname()[1], server.port)

    def close(self) -> None:
        self._connection.close()

    async def get(self, path: str) -> int:
        """Ask, and return the status."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> int:
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        response.read()
        return response.status


def worker_of(server: Server, peer_port: int, own_port: int | None = None) -> int:
    """The process of `server` that has the connection with this port at the other end."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            ports = [int(address.partition(":")[2], 16) for address in fields[1:3]]
            if ports[1] != peer_port or own_port not in (None, ports[0]):
                continue
            for process in server.processes()[1:]:
                with contextlib.suppress(OSError):
                    links = [str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()]
                    if f"socket:[{fields[9]}]" in links:
                        return process
        time.sleep(0.01)
    raise AssertionError("nobody has this connection")


async def connect(server: Server, stack: AsyncExitStack) -> list[Client]:
    """Sixteen clients, of more than one worker."""
    clients: list[Client] = []
    while len(clients) < 16 or len({client.worker for client in clients}) < 2:
        assert len(clients) < 200
        clients.append(await asyncio.to_thread(Client, server))
        stack.callback(clients[-1].close)
    return clients
