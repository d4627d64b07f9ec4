"""Ports for servers that are told where to listen, and that come back there after they were killed.

They are below those that the kernel gives to connections: a connection of another program, which got the port of a
server that is away for a moment, would keep it from coming back.
"""

import socket
from itertools import islice
from random import SystemRandom
from typing import Final

_PORTS: Final = range(20_000, 30_000)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 where nothing listens; chosen at random, because other processes choose as well."""
    chosen = SystemRandom().sample(_PORTS, len(_PORTS))
    return list(islice(filter(is_free, chosen), count))


def free_port() -> int:
    """One of these."""
    return free_ports(1)[0]


def is_free(port: int) -> bool:
    """Whether a server can listen there."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
