"""A Nix store of its own under a directory, with its own daemon: nothing of the machine's Nix is read or changed."""

import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import BenchmarkError

STORE_DIR = "/nix/store"
COMMAND_TIMEOUT_SECONDS = 1800
DAEMON_START_SECONDS = 20
_CONFIG = """\
build-users-group =
experimental-features = nix-command
substituters =
sandbox = false
fsync-metadata = false
"""  # without waiting for the disk: it is the servers that are measured


@dataclass(frozen=True, slots=True)
class Registration:
    """What the database is told of a path.

    Attributes:
        base_name: `<hash part>-<name>`.
        nar_hash: SHA-256 of the NAR, in base 16.
        nar_size: of the NAR, in bytes.
        references: base names.
    """

    base_name: str
    nar_hash: str
    nar_size: int
    references: tuple[str, ...]

    def format(self) -> str:
        """As `nix-store --load-db` reads it."""
        references = [f"{STORE_DIR}/{reference}" for reference in self.references]
        lines = [
            f"{STORE_DIR}/{self.base_name}",
            self.nar_hash,
            str(self.nar_size),
            "",
            str(len(references)),
            *references,
        ]
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class NixStore:
    """A chroot store: logically `/nix/store`, its files under `root`."""

    root: Path

    @property
    def real_store(self) -> Path:
        """Where the files of the store are."""
        return self.root / "nix/store"

    def environment(self) -> dict[str, str]:
        """Variables that make any Nix command use this store, its own configuration, and caches under `root`."""
        home = self.root / "home"
        home.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NIX_")}
        return kept | {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "NIX_CONF_DIR": str(home),
            "NIX_CONFIG": _CONFIG,
            "NIX_REMOTE": f"local?root={self.root}",
        }

    def run(self, *command: str, stdin: str = "") -> str:
        """What a Nix command prints.

        Raises:
            BenchmarkError: it fails, or takes too long.
        """
        try:
            done = subprocess.run(
                command,
                input=stdin,
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise BenchmarkError(f"{command[0]} is not installed (Debian: nix-bin)") from None
        if done.returncode:
            raise BenchmarkError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def nar_hash(self, base_name: str) -> tuple[str, int]:
        """SHA-256 in base 16 and size of a path's NAR, as Nix itself serialises it."""
        digest, size = hashlib.sha256(), 0
        command = ["nix-store", "--dump", str(self.real_store / base_name)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment()) as process:
            assert process.stdout is not None
            while chunk := process.stdout.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        if process.returncode:
            raise BenchmarkError(f"nix-store --dump fails on {base_name}")
        return digest.hexdigest(), size

    def register(self, registrations: Iterable[Registration]) -> None:
        """Make paths valid whose files are already there."""
        self.run("nix-store", "--load-db", stdin="".join(registration.format() for registration in registrations))

    @contextmanager
    def daemon(self, directory: Path) -> Iterator[Path]:
        """A nix-daemon for this store; yields its socket, which lies in `directory`."""
        socket = directory / "daemon.sock"
        environment = self.environment() | {"NIX_DAEMON_SOCKET_PATH": str(socket)}
        with (directory / "daemon.log").open("wb") as log:
            process = subprocess.Popen(
                ["nix-daemon"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + DAEMON_START_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchmarkError(f"the nix-daemon does not start: {(directory / 'daemon.log').read_text()}")
                time.sleep(0.01)
            yield socket
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def nar_hash_of_text(text: str) -> tuple[str, int]:
    """What `nar_hash` says of a file with this content, without starting a process for each of thousands."""
    words = ("nix-archive-1", "(", "type", "regular", "contents", text, ")")
    nar = b"".join(len(word).to_bytes(8, "little") + word.encode() + bytes(-len(word) % 8) for word in words)
    return hashlib.sha256(nar).hexdigest(), len(nar)


def canonicalise(path: Path) -> None:
    """Give a tree the modes and times that Nix gives store paths; what a NAR cannot hold is removed."""
    for directory, _, names in os.walk(path, topdown=False):
        for name in [*names, ""]:
            entry = os.path.join(directory, name) if name else directory  # noqa: PTH118 -- half of the time goes here
            mode = os.lstat(entry).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                os.unlink(entry)  # noqa: PTH108 -- as above
                continue
            if not stat.S_ISLNK(mode):
                os.chmod(entry, 0o555 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o444)  # noqa: PTH101 -- as above
            os.utime(entry, (1, 1), follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Delete a tree, also one of read-only directories."""
    if not path.exists():
        return
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o755)
    shutil.rmtree(path)
