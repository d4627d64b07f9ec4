"""The machine of a soak: a store with a nix-daemon, the service with its units, two upstreams.

with World(folder, tmp_path) as world:
    world.paths; world.build(); world.collect(); world.reload(); …
"""

import contextlib
import ctypes
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path as FilePath
from types import TracebackType
from typing import Final, Self

from machine import Machine
from soak.paths import Path, Paths
from soak.plan import NGINX, Fault
from soak.policy import (
    DAEMON_RECOVERY_SECONDS,
    UPSTREAM_RECOVERY_SECONDS,
    UPSTREAMS,
    Doubt,
    Origin,
    Weather,
    doubted,
)
from soak.upstreams import FaultyCache, StoppableNginx

from harmonia_py.nix.hashes import Hash

URL: Final = "http://127.0.0.1:5000"
PORT: Final = 5000
WORKERS: Final = 2
# docs: `systemctl reload` returns when the supervisor has told its workers.
RELOAD_SECONDS: Final = 5.0
_CLONE_NEWNET: Final = 0x40000000

_NIX_CONF: Final = """\
sandbox = false
substituters =
experimental-features = nix-command
"""
# Everything that the journal is told is read: what it drops might be what matters.
_JOURNALD: Final = "[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\nRateLimitIntervalSec=0\n"
# What is kept is more than there is room for, so that evicting is part of it.
_SETTINGS: Final = """\
workers = {workers}
priority = {priority}
[cache]
max_size = "48 MiB"
min_free = "16 MiB"
[limits]
rate_grace = 10.0
[mirror]
min_free = "16 MiB"
negative_ttl = 2
[[upstream]]
url = "{nginx}"
public_keys = ["{nginx_key}"]
[[upstream]]
url = "{faulty}"
public_keys = ["{faulty_key}"]
"""
# `random` is what no compression makes smaller; `top` refers to itself and to `low`.
_STORE: Final = """\
{ salt ? "" }:
let
  make = name: script: extra: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-ec" script ];
  } // extra);
  random = name: size: make name "head -c ${toString size} /dev/urandom > $out" { };
in rec {
  low = make "low" "mkdir $out; echo low > $out/low; echo built low" { };
  top = make "top" "mkdir $out; ln -s $low $out/low; echo $out > $out/self; echo built top" { inherit low; };
  tree = make "tree" ''
    for i in 1 2 3 4 5 6 7 8; do mkdir -p $out/$i
      for j in $(seq 40); do echo $i $j > $out/$i/$j; done; chmod +x $out/$i/1; ln -s 1 $out/$i/link; done
    echo built tree '' { };
  half = make "half" "head -c 4000000 /dev/urandom > $out; head -c 4000000 /dev/zero >> $out; echo built half" { };
  keep = [ low top tree half (random "big" 12000000) (random "small" 300) (random "middle" 400000) ];
  # Of many files: one that is open would survive its path.
  files = name: make name "mkdir $out; for i in $(seq 60); do head -c 100000 /dev/urandom > $out/$i; done" { };
  doomed = [ (files "doomed-${salt}-files") ]
    ++ map (size: random "doomed-${salt}-${toString size}" size) [ 2000 150000 ]
    ++ map (size: random "quiet-${salt}-${toString size}" size) [ 3000 90000 ];
  mirrored = builtins.genList (n: random "mirrored-${toString n}" (3000 + n * n * 1500)) 45;
}
"""
_DUMP: Final = 'cd /nix/store; for path; do nix-store --dump "$path" >"/share/soak/$path.nar"; done'
_COPY: Final = 'to="$1"; shift; nix copy --to "$to" "$@"'

# One by one: what systemd kills is a control group, which machines that run at the same time may share.
_KILL: Final = """\
import os, pathlib, signal
for comm in pathlib.Path("/proc").glob("[0-9]*/comm"):
    try:
        if comm.read_text() == "nix-daemon\\n":
            os.kill(int(comm.parent.name), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass
"""


def enter_network_of(leader: str) -> None:
    """What this thread, and those that it starts, do on the network happens in the machine."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{leader}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


class World:
    """The machine and what is on it. The thread that makes one is in the machine's network from then on."""

    def __init__(self, folder: FilePath, root: FilePath) -> None:
        self.weather = Weather()
        self.machine = Machine(folder, root)
        self.priorities = {30}
        self._root = root
        self._stack = contextlib.ExitStack()
        self._built = 0
        self._reloaded: tuple[float, set[int]] = (0.0, set())
        self._store = threading.Lock()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.machine)
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _set_up(self, stack: contextlib.ExitStack) -> None:
        enter_network_of(self.machine.leader)
        (self.machine.share / "soak").mkdir()
        self.machine.write("/etc/nix/nix.conf", _NIX_CONF)
        self.machine.write("/etc/systemd/journald.conf.d/soak.conf", _JOURNALD)
        self.machine.write("/root/store.nix", _STORE)
        self.machine.run("systemctl", "restart", "nix-daemon.service", "systemd-journald.service")
        keep = self._paths(self._build("keep", "--out-link", "/root/keep"), Origin.STORE)
        mirrored = self._paths(self._build("mirrored", "--no-out-link"), Origin.NGINX)
        for path in keep:
            told = self.machine.run("nix", "store", "ls", "--json", "--recursive", f"/nix/store/{path.store_path}")
            path.listing = json.loads(told)
            path.log = self._log(path)
        self.nginx_key = self._publish(mirrored)
        self.machine.run("nix-collect-garbage")
        self.nginx = stack.enter_context(StoppableNginx(self._root, self.machine.share / "upstream"))
        self.faulty = stack.enter_context(FaultyCache())
        self.paths = Paths([*keep, *mirrored, *self.faulty.paths])
        self._serve()

    def _log(self, path: Path) -> tuple[str, bytes] | None:
        name = f"/nix/store/{path.store_path}"
        log = self.machine.run("nix-store", "--read-log", name, check=False)
        derivation = self.machine.run("nix-store", "--query", "--deriver", name).strip()
        return (derivation.removeprefix("/nix/store/"), log.encode()) if log else None

    def _publish(self, mirrored: Sequence[Path]) -> str:
        """As most caches have it: xz; some zstd and some as they are."""
        key = self.machine.run("harmonia-py", "generate-key", "nginx-1", "--output", "/root/nginx.secret").strip()
        for number, compression in enumerate(("xz", "zstd", "none")):
            to = f"file:///share/upstream?secret-key=/root/nginx.secret&compression={compression}"
            names = [f"/nix/store/{path.store_path}" for path in mirrored[number::3]]
            self.machine.run("sh", "-ec", _COPY, "sh", to, *names)
        return key

    def _serve(self) -> None:
        self.machine.run("install", "-d", "/etc/harmonia-py")
        command = ("harmonia-py", "generate-key", "soak-1", "--output", "/etc/harmonia-py/sign-key")
        self.key = self.machine.run(*command).strip()
        self._write_settings(30)
        self.machine.drop_in("mirror.conf")
        self.machine.drop_in("signing-key.conf")
        self.machine.run("systemctl", "start", "harmonia-py.socket", "harmonia-py.service")

    def _write_settings(self, priority: int) -> None:
        text = _SETTINGS.format(
            workers=WORKERS,
            priority=priority,
            nginx=self.nginx.url,
            nginx_key=self.nginx_key,
            faulty=self.faulty.url,
            faulty_key=self.faulty.key,
        )
        self.machine.write("/etc/harmonia-py/settings.toml", text)

    def _build(self, attribute: str, *options: str) -> list[str]:
        built = self.machine.run("nix-build", "/root/store.nix", "-A", attribute, *options)
        if options[0] == "--out-link":
            built = self.machine.run("sh", "-ec", "readlink -f /root/keep*")
        return [line.removeprefix("/nix/store/") for line in built.split()]

    def _paths(self, names: Iterable[str], origin: Origin) -> list[Path]:
        names = list(names)
        self.machine.run("sh", "-ec", _DUMP, "sh", *names)
        paths = []
        for name in names:
            file = self.machine.share / "soak" / f"{name}.nar"
            paths.append(Path(name, file.read_bytes(), origin))
            file.unlink()
        return paths

    # What happens

    def build(self) -> None:
        # A collection in between would take what has just been built, before it is known.
        with self._store:
            self._built += 1
            self.paths.built(
                self._paths(self._build("doomed", "--no-out-link", "--argstr", "salt", f"{self._built}"), Origin.DOOMED)
            )

    def collect(self) -> None:
        with self._store, doubted(self.weather, Doubt.COLLECTION, recovery=1.0):
            doomed = self.paths.collection_begins()
            self.machine.run("nix-collect-garbage")
            there = set(self.machine.run("ls", "/nix/store").split())
            left = [path for path in doomed if path.store_path in there]
            self.paths.collection_ended([path for path in doomed if path.store_path not in there], left)

    def reload(self) -> None:
        priority = 30 + (max(self.priorities) - 29) % 5
        before = self.priorities
        self.priorities = before | {priority}
        self._write_settings(priority)
        self.machine.run("systemctl", "reload", "harmonia-py.service")
        self.priorities = {priority}
        self._reloaded = (time.time(), before)

    def recent_priorities(self, now: float) -> set[int]:
        """What a worker may say that has not heard of a reload."""
        at, before = self._reloaded
        return before if now < at + RELOAD_SECONDS else set()

    def restart_daemon(self) -> None:
        with doubted(self.weather, Doubt.DAEMON, recovery=DAEMON_RECOVERY_SECONDS):
            self.machine.run("systemctl", "restart", "nix-daemon.service")

    def stop_daemon(self) -> None:
        with doubted(self.weather, Doubt.DAEMON, recovery=DAEMON_RECOVERY_SECONDS):
            self.machine.run("systemctl", "stop", "nix-daemon.socket", "nix-daemon.service")
            self.machine.run("sleep", "1")
            self.machine.run("systemctl", "start", "nix-daemon.socket")

    def kill_daemon(self) -> None:
        # What was protected before may be taken by collections until the download ends.
        with doubted(self.weather, Doubt.DAEMON, Doubt.ROOTS, recovery=DAEMON_RECOVERY_SECONDS):
            self.machine.python(_KILL)
            # Its socket is systemd's: the next connection starts another, if it was not told to give up.
            self.machine.run("systemctl", "reset-failed", "nix-daemon.service", check=False)

    @contextlib.contextmanager
    def flapping(self, upstream: str, fault: Fault) -> Iterator[None]:
        """An upstream fails in one way."""
        cache = self.nginx if upstream == NGINX else self.faulty
        with doubted(self.weather, UPSTREAMS[upstream], recovery=UPSTREAM_RECOVERY_SECONDS):
            cache.begin(fault)
            try:
                yield
            finally:
                cache.end(fault)

    def substitute(self, path: Path) -> str | None:
        """Bring a path into an empty store by a real client; what is wrong, or None."""
        name = f"/nix/store/{path.store_path}"
        self.machine.run("rm", "-rf", "/client", "/root/.cache")
        options = ("--option", "substituters", URL, "--option", "trusted-public-keys", self.key)
        done = self.machine.run(
            "sh", "-c", '"$@" 2>&1 && echo realised', "sh",
            "nix-store", "--store", "/client", "--realise", name, *options, check=False,
        )  # fmt: skip
        if not done.endswith("realised\n"):
            return done
        told = self.machine.run("nix", "path-info", "--store", "/client", "--json", name)
        sri = re.search(r'"narHash":"([^"]+)"', told)
        assert sri is not None, told
        return None if sri[1] == Hash.of(path.nar).sri else f"{name} has the NAR hash {sri[1]}"
