"""The servers that are compared, each started from nothing, and what is known of one that runs."""

import compileall
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import BenchmarkError
from benchmarks.client import Address, Connection
from benchmarks.closure import Closure
from benchmarks.nix_store import NixStore
from benchmarks.processes import ProcessTree

START_SECONDS = 30
STOP_SECONDS = 15
CACHE_INFO = "/nix-cache-info"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a server is started.

    Attributes:
        form: what its narinfos offer: NARs as they are (`none`), or `zstd`.
        workers: number of processes that answer.
        access_log: whether each request is logged.
    """

    form: str
    workers: int
    access_log: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        name: for the table.
        address: where it listens.
        tree: its processes; None when they are not on this machine.
        started_seconds: from exec to the first 200; None when somebody else started it.
    """

    name: str
    address: Address
    tree: ProcessTree | None
    started_seconds: float | None = None

    @property
    def url(self) -> str:
        """As Nix takes it."""
        return f"http://{self.address[0]}:{self.address[1]}"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that can be measured.

    Attributes:
        name: for the table.
        start: makes it run, fresh, with a directory of its own for what it keeps.
        files: what it reads from the disk, to be dropped from the page cache for a cold start.
        restarts: whether `start` starts anything; a peer merely is there.
    """

    name: str
    start: Callable[[Setting, Path], AbstractContextManager[Server]]
    files: Callable[[Setting], Sequence[Path]] = lambda _: ()
    restarts: bool = True


def nginx(closure: Closure, name: str = "nginx", *, limit: str = "") -> Contender:
    """Nginx with a file cache: the practical limit; `limit` is the `limit_rate` of each connection."""

    def start(setting: Setting, directory: Path) -> AbstractContextManager[Server]:
        port = _free_port()
        configuration = directory / "nginx.conf"
        configuration.write_text(
            _NGINX.format(
                user="user root;" if os.geteuid() == 0 else "",  # only root may name one
                workers=setting.workers,
                access_log=f"access_log {directory}/access.log;" if setting.access_log else "access_log off;",
                directory=directory,
                port=port,
                root=closure.file_cache(setting.form),
                limit=f"limit_rate {limit};" if limit else "",
                takes="",
            )
        )
        return _running(name, _nginx_command(directory), port, directory)

    return Contender(name, start, lambda setting: [closure.file_cache(setting.form)])


def nginx_put(name: str = "nginx, PUT") -> Contender:
    """Nginx that writes what it is sent and verifies nothing: the least that a push over HTTP takes."""

    def start(setting: Setting, directory: Path) -> AbstractContextManager[Server]:
        port, root = _free_port(), directory / "root"
        root.mkdir()
        (root / CACHE_INFO[1:]).write_text("StoreDir: /nix/store\n")
        (directory / "nginx.conf").write_text(
            _NGINX.format(
                user="user root;" if os.geteuid() == 0 else "",
                workers=setting.workers,
                access_log="access_log off;",
                directory=directory,
                port=port,
                root=root,
                limit="",
                takes="dav_methods PUT; create_full_put_path on; client_max_body_size 0;",
            )
        )
        return _running(name, _nginx_command(directory), port, directory)

    return Contender(name, start)


def _nginx_command(directory: Path) -> list[str]:
    return ["nginx", "-p", str(directory), "-e", f"{directory}/error.log", "-c", f"{directory}/nginx.conf"]


def snapshot(tree: Path, directory: Path) -> Path:
    """A copy of the package in `tree`, compiled, so that editing it meanwhile changes nothing."""
    shutil.copytree(tree / "harmonia_py", directory / "harmonia_py")
    compileall.compile_dir(directory, quiet=1)  # as where a program was installed
    return directory


def harmonia_py(closure: Closure, daemon_socket: Path, tree: Path, name: str = "harmonia-py") -> Contender:
    """This project, as it is in `tree`, on the store that the file caches were made from."""

    def start(setting: Setting, directory: Path) -> AbstractContextManager[Server]:
        return on_store(directory, tree, closure.store, daemon_socket, closure.secret_key, setting=setting, name=name)

    return Contender(name, start, lambda _: [closure.store.real_store])


def on_store(
    directory: Path,
    tree: Path,
    store: NixStore,
    daemon_socket: Path,
    secret_key: Path,
    *,
    setting: Setting,
    name: str = "harmonia-py",
) -> AbstractContextManager[Server]:
    """This project as it is in `tree`, started on a store, with `directory` for what it keeps."""
    return _harmonia_py(
        name,
        directory,
        tree,
        f"workers = {setting.workers}\n"
        f'real_nix_store = "{store.real_store}"\n'
        f'daemon_socket = "{daemon_socket}"\n'
        f'sign_key_paths = ["{secret_key}"]\n'
        f'compression = "{setting.form}"\n'
        f"access_log = {str(setting.access_log).lower()}\n",
    )


def mirror(closure: Closure, upstream: str, tree: Path, name: str = "harmonia-py") -> Contender:
    """This project as a mirror of one upstream, with nothing kept yet."""

    def start(setting: Setting, directory: Path) -> AbstractContextManager[Server]:
        return _harmonia_py(
            name,
            directory,
            tree,
            f"workers = {setting.workers}\n"
            'real_nix_store = "/nowhere/store"\n'
            'daemon_socket = "/nowhere/socket"\n'
            f"access_log = {str(setting.access_log).lower()}\n"
            f'[[upstream]]\nurl = "{upstream}"\npublic_keys = ["{closure.public_key.strip()}"]\n',
        )

    return Contender(name, start)


def team(closure: Closure, tree: Path, name: str = "harmonia-py") -> Contender:
    """This project with a public cache `team` that has nothing yet."""

    def start(setting: Setting, directory: Path) -> AbstractContextManager[Server]:
        return _harmonia_py(
            name,
            directory,
            tree,
            f"workers = {setting.workers}\n"
            'real_nix_store = "/nowhere/store"\n'
            'daemon_socket = "/nowhere/socket"\n'
            f'sign_key_paths = ["{closure.secret_key}"]\n'
            f"access_log = {str(setting.access_log).lower()}\n"
            "[caches.team]\npublic = true\n",
        )

    return Contender(name, start)


def make_token(tree: Path, directory: Path) -> str:
    """A token that may push to the cache `team` of the server that was started with this directory.

    Raises:
        BenchmarkError: there is none.
    """
    command = [sys.executable, "-m", "harmonia_py.cli", "token", "create", "bench", "--cache", "team"]
    command += ["--allow", "read,push", "--config", str(directory / "harmonia.toml")]
    environment = os.environ | _directories(directory)
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=START_SECONDS, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"no token: {done.stderr.strip()}")
    return done.stdout.strip()


def _directories(directory: Path) -> dict[str, str]:
    return {variable: str(directory / variable.lower()) for variable in ("CACHE_DIRECTORY", "STATE_DIRECTORY")}


def _harmonia_py(name: str, directory: Path, tree: Path, settings: str) -> AbstractContextManager[Server]:
    port = _free_port()
    configuration = directory / "harmonia.toml"
    configuration.write_text(f'bind = "127.0.0.1:{port}"\n{settings}')
    kept = _directories(directory)
    for folder in kept.values():
        Path(folder).mkdir(exist_ok=True)
    # Not the installed command: the working directory says which tree is measured.
    command = [sys.executable, "-m", "harmonia_py.cli", "serve", "--config", str(configuration)]
    return _running(name, command, port, directory, environment=os.environ | kept, working_directory=tree)


def harmonia(closure: Closure, binary: str, name: str = "Harmonia") -> Contender:
    """Harmonia, in Rust, on the store that the file caches were made from; it reads the store's database itself."""

    def start(setting: Setting, directory: Path) -> AbstractContextManager[Server]:
        port = _free_port()
        configuration = directory / "harmonia.toml"
        configuration.write_text(
            f'bind = "127.0.0.1:{port}"\n'
            f"workers = {setting.workers}\n"
            f'real_nix_store = "{closure.store.real_store}"\n'
            f'nix_db_path = "{closure.store.root}/nix/var/nix/db/db.sqlite"\n'
            f'sign_key_paths = ["{closure.secret_key}"]\n'
        )
        environment = os.environ | {"CONFIG_FILE": str(configuration), "RUST_LOG": "error"}
        return _running(name, [binary], port, directory, environment=environment)

    return Contender(name, start, lambda _: [closure.store.real_store])


def ncps(closure: Closure, upstream: str, binary: str, name: str = "ncps") -> Contender:
    """ncps, in Go, as a mirror of one upstream, with nothing kept yet and SQLite as its database."""
    key = closure.public_key.strip()
    return _ncps(binary, name, f"--cache-upstream-url={upstream}", f"--cache-upstream-public-key={key}")


def ncps_put(binary: str, name: str = "ncps") -> Contender:
    """ncps, which takes pushes below /upload and holds no NAR against its narinfo; its upstream never answers."""
    return _ncps(binary, name, "--cache-allow-put-verb", "--cache-upstream-url=http://127.0.0.1:9")


def _ncps(binary: str, name: str, *options: str) -> Contender:
    def start(_setting: Setting, directory: Path) -> AbstractContextManager[Server]:
        port = _free_port()
        storage = directory / "storage"
        storage.mkdir()
        database = f"--cache-database-url=sqlite:{directory}/ncps.sqlite"
        subprocess.run(
            [binary, "--analytics-reporting-enabled=false", "migrate", "up", database],
            check=True,
            capture_output=True,
            timeout=START_SECONDS,
        )
        command = [binary, "--analytics-reporting-enabled=false", "--log-level=error", "serve", database, *options]
        command += ["--cache-hostname=bench.example.org", f"--cache-storage-local={storage}"]
        command += [f"--cache-temp-path={directory}", f"--server-addr=127.0.0.1:{port}", "--netrc-file="]
        return _running(name, command, port, directory)

    return Contender(name, start)


def peer(name: str, url: str) -> Contender:
    """A server that somebody else started, on the same closure.

    Raises:
        BenchmarkError: the URL is not one.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise BenchmarkError(f"a peer is NAME=http://HOST:PORT, not {url!r}")
    address = (parts.hostname, parts.port or 80)

    @contextmanager
    def start(_setting: Setting, _directory: Path) -> Iterator[Server]:
        if not _answers(address):
            raise BenchmarkError(f"{name} does not answer {CACHE_INFO} at {url} with keep-alive")
        pid = _listener(address[1]) if address[0] in ("127.0.0.1", "localhost") else None
        yield Server(name, address, ProcessTree(pid) if pid is not None else None)

    return Contender(name, start, restarts=False)


@contextmanager
def _running(
    name: str,
    command: list[str],
    port: int,
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    working_directory: Path | None = None,
) -> Iterator[Server]:
    if shutil.which(command[0]) is None:
        raise BenchmarkError(f"{command[0]} is not installed")
    address = ("127.0.0.1", port)
    output = directory / "output.log"
    start = time.perf_counter()
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=working_directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    try:
        while not _answers(address):
            if process.poll() is not None or time.perf_counter() - start > START_SECONDS:
                raise BenchmarkError(f"{name} does not start: {_last_line(output)}")
            time.sleep(0.002)
        yield Server(name, address, ProcessTree(process.pid), time.perf_counter() - start)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in list(ProcessTree(process.pid).members()):
                os.kill(pid, 9)
            process.wait()


def _last_line(file: Path) -> str:
    return (file.read_text(errors="replace").splitlines() or ["it says nothing"])[-1]


def _answers(address: Address) -> bool:
    try:
        with Connection(address) as connection:
            for _ in range(2):
                connection.get(CACHE_INFO)
    except (OSError, BenchmarkError):
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listener(port: int) -> int | None:
    """The oldest process that listens on `port`: a server's first."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # TCP_LISTEN
                inodes.add(f"socket:[{fields[9]}]")
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        try:
            if any(str(descriptor.readlink()) in inodes for descriptor in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
        except OSError:  # another user's process, or one that has just ended
            continue
    return None


_NGINX = """\
{user}
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 2048; }}
http {{
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  {access_log}
  {limit}
  types {{ text/x-nix-narinfo narinfo; application/x-nix-nar nar zst; }}
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    {takes}
  }}
}}
"""
