"""nginx over a directory: a binary cache as most people run one.

with Nginx(tmp_path, directory) as upstream:
    upstream.url; upstream.requests()   # "GET /nix-cache-info HTTP/1.1 200", in the order they came
    upstream.stop(); upstream.start()   # on the same port
"""

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

from ports import free_port

_TIME_LIMIT: Final = 30.0

_CONFIGURATION: Final = """\
daemon off;
pid {root}/pid;
error_log {root}/errors;
{user}
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  log_format plain "$request $status";
  access_log {root}/requests plain;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  sendfile on;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port};
    location / {{ root {directory}; {extra} }}
  }}
}}
"""


class Nginx:
    def __init__(self, root: Path, directory: Path, extra: str = "") -> None:
        self._root = root / "nginx"
        self._root.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        configuration = _CONFIGURATION.format(
            root=self._root, directory=directory, port=self.port, extra=extra, user="user root;"
        )
        (self._root / "nginx.conf").write_text(configuration)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        command = ["nginx", "-e", str(self._root / "errors"), "-c", str(self._root / "nginx.conf")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _TIME_LIMIT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), _TIME_LIMIT):
                return
            assert self._process.poll() is None, (self._root / "errors").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_TIME_LIMIT)
            self._process = None

    def requests(self) -> list[str]:
        file = self._root / "requests"
        return file.read_text().splitlines() if file.exists() else []
