"""A proxy that cuts the first download of a NAR, and notes what it is asked for then.

with CuttingProxy(server.port, cut_after=1_000_000) as proxy:
    proxy.url; proxy.nar_requests       # NarRequest(range, status), in the order they came
"""

import contextlib
import http.client
import socketserver
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self

_BLOCK: Final = 1 << 16
_TIME_LIMIT: Final = 30.0
# Those of the connection, not of the answer.
_HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "host"}


@dataclass(frozen=True, slots=True)
class NarRequest:
    range: str | None
    status: int


class CuttingProxy:
    def __init__(self, port: int, *, cut_after: int) -> None:
        self.nar_requests: list[NarRequest] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _TIME_LIMIT

            def do_GET(self) -> None:
                proxy._forward(self, port, cut_after)

            do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

            def log_message(self, *arguments: object) -> None:
                pass

        self._server: socketserver.BaseServer = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(_TIME_LIMIT)
        self._server.server_close()

    def _forward(self, client: BaseHTTPRequestHandler, port: int, cut_after: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIME_LIMIT)
        with contextlib.closing(connection):
            headers = {name: value for name, value in client.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(client.command, client.path, headers=headers)
            response = connection.getresponse()
            left: float = float("inf")
            if client.path.startswith("/nar/"):
                left = cut_after if not self.nar_requests else left
                self.nar_requests.append(NarRequest(client.headers.get("Range"), response.status))
            client.send_response_only(response.status)
            for name, value in response.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    client.send_header(name, value)
            chunked = response.getheader("Content-Length") is None
            if chunked:
                client.send_header("Transfer-Encoding", "chunked")
            client.end_headers()
            while left > 0 and (block := response.read1(int(min(left, _BLOCK)))):
                client.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                left -= len(block)
            if chunked and left > 0:
                client.wfile.write(b"0\r\n\r\n")
            client.close_connection = left <= 0
