"""Several servers, each as on a machine of its own, that are one cache: a database and a storage that they share.

with Replicas(tmp_path, lab, shared().database()) as replicas:     # the private cache `team`
    replicas.make_tokens()
    replicas.copy(0, lab.closure.top)           # `nix copy --to` the first one
    client = replicas.substitute("laptop", 1, lab.closure.top)
    with proxy(tmp_path / "proxy", replicas.servers) as port:   # nginx as docs/how-to/replicas.md has it
        …
"""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import prefork
from lab import Client, Lab
from ports import free_port
from server import PROJECT, Answer, Server, settings_of

from harmonia_py.nix.store_path import StorePath

CACHE: Final = "team"

_RESTART_SECONDS: Final = 1.0
# The servers in the nginx.conf of the page.
_EXAMPLES: Final = re.compile(r"server 10\.0\.0\.1[12]:5000 max_fails=1 fail_timeout=2s;")
_NGINX: Final = """\
daemon off;
user root;
pid {root}/pid;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
  log_format told "$time_iso8601 $request $status $request_length $upstream_addr $upstream_status $request_time";
  access_log {root}/requests told;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  {server}
}}
"""


class Replicas:
    """Servers that share a database and a storage, and the tokens for their cache.

    Attributes:
        servers: each is a context of its own, and can be left and entered again.
        database: the URL of what they share.
        push, read: tokens.
    """

    def __init__(
        self, root: Path, lab: Lab, database: str, count: int = 2, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._root, self._lab = root, lab
        self._stack = ExitStack()
        self.servers: list[Server] = []
        for number in range(count):
            machine = root / f"machine-{number}"
            machine.mkdir()
            wanted = settings_of(lab) | {"caches": {CACHE: {}}, "database": {"url": database}, "compression": "none"}
            wanted |= {"state_directory": str(root / "shared"), **(settings or {})}
            if "storage" in wanted:  # a bucket: nothing else is shared
                del wanted["state_directory"]
            self.servers.append(Server(machine, lab.env, wanted, bind=f"127.0.0.1:{free_port()}"))
        self.database = database
        self.push = self.read = ""

    def __enter__(self) -> Self:
        for server in self.servers:
            self._stack.enter_context(server)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart(
        self, number: int, how: signal.Signals = signal.SIGKILL, program: Sequence[str] = (), *, starts: int = 1
    ) -> None:
        """End a replica with all its processes, and start it again, or another `program`, at the same address.

        A start that fails is tried again, as systemd does it, until there were `starts`.
        """
        server = self.servers[number]
        if how is signal.SIGKILL:
            server.kill()
        else:
            server.stop()
        if program:
            server.interpreter = program
        for left in reversed(range(starts)):
            try:
                server.__enter__()
            except AssertionError:
                if not left:
                    raise
                time.sleep(_RESTART_SECONDS)
            else:
                return

    def command(self, *arguments: str) -> str:
        """What a command prints that is run on the first machine."""
        config = self._root / "machine-0" / "server" / "harmonia.toml"
        env = {"PATH": os.environ["PATH"], "HOME": str(self._root), "CACHE_DIRECTORY": str(self._root / "none")}
        done = prefork.run(*arguments, "--config", str(config), cwd=self._root, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def make_tokens(self) -> None:
        self.push = self.command("token", "create", "ci", "--cache", CACHE, "--allow", "read,push")
        self.read = self.command("token", "create", "laptop", "--cache", CACHE, "--allow", "read")

    def url(self, number: int, token: str, place: str = "") -> str:
        return f"http://x:{token}@127.0.0.1:{self.servers[number].port}/{CACHE}{place}"

    def get(self, number: int, place: str) -> Answer:
        """The answer of a replica to the token that reads."""
        return self.servers[number].get(f"/{CACHE}{place}", {"Authorization": f"Bearer {self.read}"})

    def copy(
        self, number: int, *paths: StorePath, run: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Push paths with what they reference to a replica."""
        url = self.url(number, self.push, f"/push{run}") + "?compression=zstd"
        return self._lab.run("nix", "copy", "--to", url, *map(self._lab.full, paths), check=check)

    def substitute(self, name: str, number: int, *paths: StorePath) -> Client:
        """An empty store that has the paths from a replica by now."""
        client = self._lab.client(name)
        options = ("--option", "require-sigs", "false", "--option", "substituters", self.url(number, self.read))
        client.run("nix-store", "--realise", *map(self._lab.full, paths), *options)
        for path in paths:
            assert client.run("nix-store", "--dump", str(client.real(path))).stdout == self._lab.dump(path)
        return client


@contextmanager
def proxy(root: Path, servers: Sequence[Server]) -> Iterator[int]:
    """nginx as the page says, before these servers and without TLS: its port."""
    root.mkdir()
    port = free_port()
    text = (PROJECT / "docs/how-to/nginx-replicas.conf").read_text()
    assert len(_EXAMPLES.findall(text)) == 2  # of the page
    ours = [f"server 127.0.0.1:{server.port} max_fails=1 fail_timeout=2s;" for server in servers]
    text = _EXAMPLES.sub("", text).replace("keepalive 32;", "\n".join([*ours, "keepalive 32;"]))
    assert "listen 443 ssl;" in text
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    text = "\n".join(line for line in text.splitlines() if "ssl_" not in line)
    (root / "nginx.conf").write_text(_NGINX.format(root=root, server=text))
    with (root / "errors").open("ab") as errors:
        command = ["nginx", "-e", str(root / "errors"), "-c", str(root / "nginx.conf")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    try:
        _wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 30.0
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        assert time.monotonic() < end
        time.sleep(0.01)
