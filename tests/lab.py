"""A Nix of its own for a test: store, database, logs, configuration, daemon, clients; all under one directory.

    lab = Lab(tmp_path)                     # store dir is <tmp_path>/nix/store: builds need no privileges
    lab = Lab(tmp_path, chroot=True)        # store dir is /nix/store, the files are in <tmp_path>/nix/store

    lab.store_dir                           # StoreDir, the logical one;  lab.real_store: Path, where the files are
    lab.real(store_path)                    # Path of a store path's files;  lab.full(store_path): its logical full path
    lab.database, lab.log_dir, lab.socket   # Paths
    lab.env                                 # what a process needs to work on this store and no other

    lab.nix("path-info", "--json", "--all") # runs `nix …` on this store, returns what it printed; raises when it fails
    lab.nix_store("--query", …)             # `nix-store …`, likewise;  lab.run("nix-build", …) for any other program
    lab.run(…, check=False)                 # does not raise: look at .returncode and .stderr

    lab.path_infos("--recursive", path)     # `nix path-info --json`, by path, in the form that every version of Nix has
    lab.add(path)                           # `nix-store --add`: StorePath
    lab.build()                             # Closure(top, input0, input1, input2, derivation), built by /bin/sh
    lab.build_ca()                          # CaClosure(top, dep, …): content-addressed derivations with realisations
    lab.dump(store_path)                    # bytes of `nix-store --dump`
    lab.delete(store_path, …)               # `nix-store --delete`, whatever root of the machine leads to them
    lab.is_valid(store_path)
    lab.secret_key("name-1")                # Keys(secret_file, public), a new pair

    lab.start_daemon(); lab.stop_daemon()   # nix-daemon on lab.socket; stop ends its connections too, as a reboot does
    lab.stop_daemon(connections=False)      # its connections live on, as after `systemctl restart nix-daemon`
    lab.connections()                       # process ids of the daemon's connections

    client = lab.client("one")              # an empty store with the same store dir, its own database and caches
    client.nix_store("--realise", lab.full(path), "--option", "substituters", url, …); client.real(path)
    client.forget()                         # drops its memory of narinfos and cache infos

Fixtures in conftest.py: `lab` (with the small closure in `lab.closure`), `chroot_lab` (the same), `daemon` (a `lab`
whose daemon runs); all copied by template.py. Everything a lab starts ends with it.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from harmonia_py.nix.handshake import greet
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StoreDir, StorePath

# Nothing here takes a second when it works; a machine under load gets patience, a hang gets an end.
TIME_LIMIT: Final = 60.0

# A chroot store builds in a namespace of its own, which sees of this machine only the `sandbox-paths`.
_CONFIGURATION: Final = """\
sandbox = false
build-users-group =
experimental-features = nix-command flakes ca-derivations
substituters =
trusted-public-keys =
sandbox-paths = /bin /lib /lib64 /usr
gc-reserved-space = 0
fsync-metadata = false
"""

_EXPRESSIONS: Final = """
let
  make = name: script: extra: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-e" (builtins.toFile "builder-${name}.sh" script) ];
    PATH = "/usr/bin:/bin";
  } // extra);
  ca = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
in rec {
  input0 = make "dependencies-input-0" "mkdir $out; echo foo > $out/bar" { };
  input1 = make "dependencies-input-1" "mkdir $out; echo FOO > $out/foo" { };
  input2 = make "dependencies-input-2"
    "mkdir $out; echo BAR > $out/bar; echo $input0 > $out/input0" { inherit input0; };
  top = make "dependencies-top" ''
    mkdir $out; echo FOOBAR > $out/foobar; ln -s $input2 $out/reference-to-input-2
    echo '#!/bin/sh' > $out/program; chmod +x $out/program; echo $out > $out/self; echo FOO-log-line
  '' { inherit input1 input2; };
  caDep = make "ca-dep" "mkdir $out; echo dep > $out/dep" ca;
  caTop = make "ca-top" "mkdir $out; ln -s $caDep $out/dep; echo $out > $out/self" (ca // { inherit caDep; });
}
"""


@dataclass(frozen=True, slots=True)
class Closure:
    """`top` refers to itself and to `input2`, `input2` to `input0`; `input1` is needed only to build."""

    top: StorePath
    input0: StorePath
    input1: StorePath
    input2: StorePath
    derivation: StorePath


@dataclass(frozen=True, slots=True)
class CaClosure:
    """`top` refers to itself and to `dep`; both are outputs `out` of content-addressed derivations."""

    top: StorePath
    dep: StorePath
    top_derivation: StorePath
    dep_derivation: StorePath


@dataclass(frozen=True, slots=True)
class Keys:
    secret_file: Path
    public: str


class Lab:
    closure: Closure

    def __init__(self, root: Path, *, chroot: bool = False) -> None:
        self.root = root
        self.real_store = root / "nix" / "store"
        self.store_dir = StoreDir.parse("/nix/store" if chroot else str(self.real_store))
        self.state_dir = root / "nix" / "var" / "nix"
        self.database = self.state_dir / "db" / "db.sqlite"
        self.log_dir = root / "nix" / "var" / "log" / "nix"
        self.socket = root / "daemon.socket"
        self.env = _environment(root, root / "home") | {
            "NIX_REMOTE": str(root) if chroot else "local",
            "NIX_DAEMON_SOCKET_PATH": str(self.socket),
        }
        if not chroot:
            # A chroot store has all this below its root already.
            self.env |= {
                "NIX_STORE_DIR": self.store_dir,
                "NIX_STATE_DIR": str(self.state_dir),
                "NIX_LOG_DIR": str(self.log_dir),
            }
        self._daemon: subprocess.Popen[bytes] | None = None
        (root / "etc").mkdir()
        (root / "etc" / "nix.conf").write_text(_CONFIGURATION)
        (root / "lab.nix").write_text(_EXPRESSIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_daemon()
        if os.geteuid() != 0:  # only root removes what is in directories that are read-only, as those of a store are
            for directory, *_rest in os.walk(self.root):
                with contextlib.suppress(PermissionError):
                    os.chmod(directory, 0o755)  # noqa: PTH101  # as os.walk names it

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return _run(command, self.env, check=check)

    def nix(self, *arguments: str) -> str:
        return self.run("nix", *arguments).stdout.decode()

    def nix_store(self, *arguments: str) -> str:
        return self.run("nix-store", *arguments).stdout.decode()

    def path_infos(self, *arguments: str) -> dict[str, dict[str, Any]]:
        return parse_path_infos(self.nix("path-info", "--json", *arguments))

    def full(self, store_path: StorePath) -> str:
        return self.store_dir.join(store_path)

    def real(self, store_path: StorePath) -> Path:
        return self.real_store / store_path

    def add(self, path: Path) -> StorePath:
        return self.store_dir.parse_path(self.nix_store("--add", str(path)).strip())

    def dump(self, store_path: StorePath) -> bytes:
        return self.run("nix-store", "--dump", str(self.real(store_path))).stdout

    def delete(self, *store_paths: StorePath) -> None:
        # Temporary roots protect all the same. Nix does not look for others, among them all that any process of the
        # machine has mapped or in its environment: a quarter of a second of a core.
        self.nix_store("--delete", "--ignore-liveness", *map(self.full, store_paths))

    def is_valid(self, store_path: StorePath) -> bool:
        return self.run("nix-store", "--check-validity", self.full(store_path), check=False).returncode == 0

    def build(self) -> Closure:
        """The small closure; None of it is protected from garbage collection."""
        top, input0, input1, input2 = self._build("top", "input0", "input1", "input2")
        return Closure(top, input0, input1, input2, self._instantiate("top"))

    def build_ca(self) -> CaClosure:
        """Two content-addressed outputs, the one with a reference to the other."""
        top, dep = self._build("caTop", "caDep")
        return CaClosure(top, dep, self._instantiate("caTop"), self._instantiate("caDep"))

    def _build(self, *names: str) -> list[StorePath]:
        attributes = [argument for name in names for argument in ("-A", name)]
        command = ("nix-build", str(self.root / "lab.nix"), "--no-out-link", *attributes)
        return [self.store_dir.parse_path(line) for line in self.run(*command).stdout.decode().splitlines()]

    def _instantiate(self, name: str) -> StorePath:
        output = self.run("nix-instantiate", str(self.root / "lab.nix"), "-A", name).stdout.decode()
        return self.store_dir.parse_path(output.strip())

    def secret_key(self, name: str) -> Keys:
        # Two starts of Nix would cost as much as its daemon. That Nix reads and makes such keys: nix/test_signing.py.
        key = SecretKey.generate(name)
        secret_file = self.root / f"{name}.secret"
        secret_file.write_text(key.format())
        return Keys(secret_file, str(key.public_key))

    def start_daemon(self, *, awaited: bool = False) -> None:
        """Return when the daemon answers on `self.socket`; `awaited` when others ask it from its first moment on."""
        assert self._daemon is None
        with (self.root / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                ["nix-daemon"], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait(lambda: _answers(self.socket))
        # The question had a process of its own, which tests that count connections must not see.
        self._wait(lambda: awaited or not self.connections())

    def _wait(self, condition: Callable[[], bool]) -> None:
        assert self._daemon is not None
        deadline = time.monotonic() + TIME_LIMIT
        while not condition():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.stop_daemon()
                raise AssertionError((self.root / "daemon.log").read_text())
            time.sleep(0.002)

    def stop_daemon(self, *, connections: bool = True) -> None:
        """Kill the daemon, and the processes of its connections as well unless told otherwise."""
        if self._daemon is None:
            return
        # Stopped, it cannot fork another one while we look.
        self._daemon.send_signal(signal.SIGSTOP)
        doomed = self.connections() if connections else []
        self._daemon.kill()
        self._daemon.wait(TIME_LIMIT)
        self._daemon = None
        for process in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        # Until they have ended, the temporary roots that they hold keep paths from being deleted.
        until = time.monotonic() + TIME_LIMIT
        while any(_is_running(process) for process in doomed) and time.monotonic() < until:
            time.sleep(0.001)
        self.socket.unlink(missing_ok=True)

    def connections(self) -> list[int]:
        """The process ids of the daemon's connections: it forks one process for each."""
        assert self._daemon is not None
        children = Path(f"/proc/{self._daemon.pid}/task/{self._daemon.pid}/children")
        try:
            return [int(process) for process in children.read_text().split()]
        except OSError:
            return []

    def client(self, name: str) -> "Client":
        return Client(self, self.root / name)


class Client:
    """An empty store with the store dir of a lab, and everything else its own."""

    def __init__(self, lab: Lab, root: Path) -> None:
        self.root = root
        self.real_store = root / "nix" / "store"
        self.home = root / "home"
        root.mkdir()
        self.env = _environment(lab.root, self.home) | {"NIX_STORE_DIR": lab.store_dir, "NIX_REMOTE": str(root)}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return _run(command, self.env, check=check)

    def nix(self, *arguments: str) -> str:
        return self.run("nix", *arguments).stdout.decode()

    def nix_store(self, *arguments: str) -> str:
        return self.run("nix-store", *arguments).stdout.decode()

    def real(self, store_path: StorePath) -> Path:
        return self.real_store / store_path

    def forget(self) -> None:
        shutil.rmtree(self.home / ".cache", ignore_errors=True)


def parse_path_infos(text: str) -> dict[str, dict[str, Any]]:
    """What `nix path-info --json` prints: up to Nix 2.18 an array, then an object by path."""
    told = json.loads(text)
    if isinstance(told, list):
        return {item["path"]: item for item in told}
    assert isinstance(told, dict)
    return told


def _environment(root: Path, home: Path) -> dict[str, str]:
    home.mkdir(parents=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NIX_", "XDG_"))}
    return inherited | {"NIX_CONF_DIR": str(root / "etc"), "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}


def _run(command: tuple[str, ...], env: dict[str, str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIME_LIMIT
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr.decode(errors='replace')}"
        )
    return done


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(TIME_LIMIT)
            probe.connect(str(path))
            probe.sendall(greet().request)
            return bool(probe.recv(16))
        except OSError:
            return False


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
