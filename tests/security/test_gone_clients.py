"""A client that resets its connection before the server looks at it has no address, and so once had that of a proxy."""

import socket
import struct
import time
from pathlib import Path

from lab import Lab
from server import Server, settings_of

RESET = struct.pack("ii", 1, 0)


def test_who_is_gone_is_not_taken_for_a_proxy_on_a_unix_socket(daemon: Lab, tmp_path: Path) -> None:
    """Its requests were not limited, and where `unix` is trusted, its `X-Forwarded-For` charged them to others."""
    settings = settings_of(daemon) | {"workers": 1, "limits": {"trusted_proxies": ["unix"]}}
    with Server(tmp_path, daemon.env, settings) as server:
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        deadline = time.monotonic() + 30
        while '"GET /health' not in server.output():
            assert server.get("/health").status == 200
            assert time.monotonic() < deadline
        log = server.output()
    assert "203.0.113.7" not in log
    assert "info: unix" not in log
