"""`kill -9` of a worker or of all, and power cuts, while clients push: at each step on the disk, and at random.

Afterwards the clients try once more, end well, and everything holds that must (`push_state`).

    make test-power-cuts                       # 200 random rounds, with every Nix that is here; SEED=… ROUNDS=…
"""

import contextlib
import hashlib
import http.client
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final, Self

import backing
import power_cut
import pytest
from lab import Lab
from nix_versions import VERSIONS
from power_cut import Disk
from push_state import published, violations
from server import Server, kill_group
from trees import File, nar
from zstd_library import zstd

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.claims import PushedFile

_MISSING: Final = power_cut.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(_MISSING is not None, reason=str(_MISSING)),
]

ROUNDS: Final = int(os.environ.get("HARMONIA_PY_POWER_CUTS", "8"))
SEED: Final = int(os.environ.get("HARMONIA_PY_SEED", "0"))
# Of a path: shorter than what the server takes in one go, about as long, several times as long.
SIZES: Final = (10, 3_000, 200_000, 300_000, 1_500_000)
PATHS: Final = 10
TIME_LIMIT: Final = 120.0
HAS_ENDED_WITHIN: Final = 30.0

_EXPRESSION: Final = """
let
  make = number: before: derivation {
    name = "path-${toString number}";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    inherit before;
    size = builtins.elemAt [ %s ] (number - builtins.div number %d * %d);
    args = [ "-e" (builtins.toFile "build.sh" ''
      mkdir $out; head -c $size /dev/urandom > $out/random; echo $name $before > $out/references
    '') ];
  };
  chain = number: if number == 0 then [ ] else
    let rest = chain (number - 1);
    in [ (make number (if rest == [ ] then "none" else builtins.head rest)) ] ++ rest;
in builtins.head (chain %d)
"""


class Incident(Enum):
    """What happens to the server."""

    WORKER = "a worker is killed"
    ALL = "every process is killed"
    POWER = "the power is cut"


@dataclass(frozen=True)
class Package:
    """A path as a client without Nix pushes it."""

    path: StorePath
    file: bytes
    url: str
    narinfo: bytes


@dataclass
class World:
    """A store with a closure, a disk with a cache that is empty, and tokens for it."""

    lab: Lab
    top: StorePath
    template: Path
    directory: Path
    begin: Callable[[Path], None] = lambda _root: None
    push: str = ""
    read: str = ""
    stranger: str = ""
    key: str = ""
    packages: list[Package] = field(default_factory=list)
    nar_hashes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("kills")
    (directory / "lab").mkdir()
    with Lab(directory / "lab") as lab:
        sizes = " ".join(map(str, SIZES))
        expression = lab.root / "chain.nix"
        expression.write_text(_EXPRESSION % (sizes, len(SIZES), len(SIZES), PATHS))
        top = lab.store_dir.parse_path(lab.run("nix-build", str(expression), "--no-out-link").stdout.decode().strip())
        world = World(lab, top, directory / "template.img", directory)
        world.packages = list(_packages(lab, top))
        world.nar_hashes = {one.path.hash_part: Hash.of(lab.dump(one.path)).nix32 for one in world.packages}
        with Disk(directory / "disk") as disk:
            with Site(world, disk) as site:
                world.push = site.command("token", "create", "ci", "--cache", "team", "--allow", "read,push")
                world.read = site.command("token", "create", "laptop", "--cache", "team", "--allow", "read")
                world.stranger = site.command("token", "create", "other", "--cache", "other", "--allow", "read,push")
                world.key = site.command("key", "create", "team")
            disk.save(world.template)
            world.begin = backing.copied(disk.path)
        with machine(world, directory / "disk") as disk, Site(world, disk) as site:
            begin = time.monotonic()
            assert _push_all(clients_of(world, site, random.Random(0), -1)) == [0, 0, 0]  # no secret
            world.seconds = time.monotonic() - begin
        yield world


@contextlib.contextmanager
def machine(world: World, path: Path) -> Iterator[Disk]:
    """A disk, and what is kept elsewhere, with a cache that is empty."""
    world.begin(path)
    with Disk(path, world.template) as disk:
        yield disk


def _push_all(clients: "Sequence[Callable[[bool], int]]") -> list[int]:
    """What the clients end with, all at once and patient."""
    with ThreadPoolExecutor(len(clients)) as threads:
        return [future.result() for future in [threads.submit(client, True) for client in clients]]


def _packages(lab: Lab, top: StorePath) -> Iterator[Package]:
    """The closure, what is referenced before what references it."""
    for full in lab.nix_store("--query", "--requisites", lab.full(top)).split():
        path = lab.store_dir.parse_path(full)
        archive = lab.dump(path)
        references = [lab.store_dir.parse_path(line) for line in lab.nix_store("--query", "--references", full).split()]
        data = zstd.compress(archive)
        file = PushedFile(Hash.of(data), "zstd")
        info = PathInfo(
            store_path=path, nar_hash=Hash.of(archive), nar_size=len(archive), references=tuple(sorted(references))
        )
        claim = NarInfo(
            path_info=info, url=f"nar/{file}", compression="zstd", file_hash=file.file_hash, file_size=len(data)
        )
        yield Package(path, data, f"nar/{file}", claim.format(lab.store_dir))


class Site:
    """A server whose state is on a disk that can lose it."""

    def __init__(self, world: World, disk: Disk) -> None:
        self._world = world
        self._disk = disk
        self.root = disk.path
        self.state = disk.path / "server" / "state"
        self.server: Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            kill_group(self.server.process)

    def start(self) -> None:
        settings = {
            "workers": 2,
            "shutdown_timeout": 1.0,
            "virtual_nix_store": self._world.lab.store_dir,
            "daemon_socket": "/nowhere/socket",
            "real_nix_store": "/nowhere/store",
            "state_directory": str(self.state),
            "caches": {"team": {"public": False}, "other": {"public": False}},
        }
        self.server = Server(self._disk.path, os.environ, settings)
        self.server.__enter__()

    def command(self, *arguments: str) -> str:
        config = self._disk.path / "server" / "harmonia.toml"
        command = [sys.executable, "-m", "harmonia_py.cli", *arguments, "--config", str(config)]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=TIME_LIMIT, check=True
        )
        return done.stdout.strip()

    def url(self, place: str) -> str:
        assert self.server is not None
        return f"http://x:{self._world.push}@127.0.0.1:{self.server.port}/team{place}"

    def workers(self) -> list[int]:
        assert self.server is not None
        return self.server.processes()[1:]

    def suffer(self, incident: Incident) -> None:
        """Let it happen; afterwards the server runs again."""
        assert self.server is not None
        if incident is Incident.WORKER:
            for worker in self.workers()[:1]:  # one that was killed may not have been replaced yet
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            return
        kill_group(self.server.process)
        self.server = None
        if incident is Incident.POWER:
            self._disk.cut()
        self.start()

    def request(
        self, method: str, place: str, body: bytes | None = None, token: str | None = "", cache: str = "team"
    ) -> tuple[int, bytes]:
        """The status and the body; with the token that pushes, unless another one or none is given."""
        assert self.server is not None
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIME_LIMIT)
        with contextlib.closing(connection):
            headers = {} if token is None else {"Authorization": f"Bearer {token or self._world.push}"}
            connection.request(method, f"/{cache}{place}", body, headers)
            response = connection.getresponse()
            return response.status, response.read()


def push_with_nix(world: World, site: Site, env: dict[str, str], place: str, patient: bool) -> int:  # noqa: FBT001
    """The exit status of `nix copy`; without patience it gives up at the first failure."""
    options = [] if patient else ["--option", "download-attempts", "1", "--option", "stalled-download-timeout", "3"]
    command = ["nix", "copy", *options, "--to", site.url(place), world.lab.full(world.top)]
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_LIMIT, check=False
    )
    if patient and done.returncode:
        print(done.stderr.decode(errors="replace"))
    return done.returncode


def push_nars_first(site: Site, packages: Sequence[Package], run: str) -> int:
    """As Nix does from 2.35 on, in an order of no meaning; 0 when everything has been taken."""
    try:
        for package in packages:
            if site.request("HEAD", f"/push/{run}/{package.url}")[0] != 200:
                status, body = site.request("PUT", f"/push/{run}/{package.url}", package.file)
                assert status in (200, 503), body
                if status != 200:
                    return 1
        for package in packages:
            status, body = site.request("PUT", f"/push/{run}/{package.path.hash_part}.narinfo", package.narinfo)
            if status != 200:
                print(status, body)
                return 1
    except (OSError, http.client.HTTPException):
        return 1
    return 0


def assert_all_is_well(world: World, site: Site) -> None:
    deadline = time.monotonic() + HAS_ENDED_WITHIN
    while (found := violations(site.root, whole=True)) and time.monotonic() < deadline:
        time.sleep(0.05)  # what no client waits for is still being written, or a worker is being replaced
    assert found == []
    assert published(site.root, "team") == world.nar_hashes
    for package in world.packages:
        status, narinfo = site.request("GET", f"/{package.path.hash_part}.narinfo", token=world.read)
        assert status == 200
        fields = dict(line.split(": ", 1) for line in narinfo.decode().splitlines())
        status, file = site.request("GET", f"/{fields['URL']}", token=world.read)
        assert status == 200
        assert Hash("sha256", hashlib.sha256(file).digest()) == Hash.parse(fields["FileHash"])
        archive = zstd.decompress(file) if fields["Compression"] == "zstd" else file
        assert Hash.of(archive).nix32 == world.nar_hashes[package.path.hash_part]
        _assert_our_signature_stands_on_what_was_hashed(world, narinfo, archive)
    _assert_the_first_nar_stays(world, site)
    _assert_nobody_else_learns_of_it(world, site)


def _assert_our_signature_stands_on_what_was_hashed(world: World, narinfo: bytes, archive: bytes) -> None:
    info = NarInfo.parse(narinfo, world.lab.store_dir).path_info
    key = PublicKey.parse(world.key)
    assert (info.nar_hash, info.nar_size) == (Hash.of(archive), len(archive))
    assert any(key.verify(info.fingerprint(world.lab.store_dir), signature) for signature in info.signatures)


def _assert_the_first_nar_stays(world: World, site: Site) -> None:
    """A push of other bytes under the same name ends well, and changes nothing, also when all is killed after it."""
    archive = nar(File(b"another build of the same"))
    file, path = PushedFile(Hash.of(archive), "none"), world.packages[-1].path
    info = PathInfo(store_path=path, nar_hash=Hash.of(archive), nar_size=len(archive))
    claim = NarInfo(
        path_info=info, url=f"nar/{file}", compression="none", file_hash=file.file_hash, file_size=len(archive)
    )
    assert site.request("PUT", f"/push/late/nar/{file}", archive)[0] == 200
    assert site.request("PUT", f"/push/late/{path.hash_part}.narinfo", claim.format(world.lab.store_dir))[0] == 200
    site.suffer(Incident.ALL)
    assert published(site.root, "team") == world.nar_hashes
    assert violations(site.root, whole=False) == []


def _assert_nobody_else_learns_of_it(world: World, site: Site) -> None:
    """A client without a token of this cache is told the same of a path that is here, and of one that is not."""
    here, absent = world.packages[-1].path.hash_part, "0" * 32
    for token in (None, world.stranger):
        assert site.request("GET", f"/{here}.narinfo", token=token) == site.request(
            "GET", f"/{absent}.narinfo", token=token
        )
        assert site.request("GET", f"/{here}.narinfo", token=token)[0] in (401, 403)
    # A file that another cache has is asked for in full: a client that only knows its name gets nothing for it.
    package = world.packages[-1]
    assert site.request("HEAD", f"/push/r/{package.url}", token=world.stranger, cache="other")[0] == 404
    place = f"/push/r/{package.path.hash_part}.narinfo"
    status, said = site.request("PUT", place, package.narinfo, world.stranger, "other")
    assert (status, b"is not here" in said) == (409, True)


def clients_of(world: World, site: Site, chance: random.Random, number: int) -> list[Callable[[bool], int]]:
    """Two Nix clients, each with a memory of its own, and one that pushes NARs first."""
    versions = [version for version in VERSIONS if version.missing is None]
    clients: list[Callable[[bool], int]] = []
    for name, compression in (("a", "zstd"), ("b", "none")):
        home = world.directory / f"home-{number}-{name}"
        home.mkdir()
        env = world.lab.env | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
        env = chance.choice(versions).wrap(env, world.directory)
        place = f"/push/{name}?compression={compression}"
        clients.append(partial(push_with_nix, world, site, env, place))
    shuffled = chance.sample(world.packages, len(world.packages))
    clients.append(lambda patient: push_nars_first(site, shuffled, "c"))  # noqa: ARG005  # it never is
    return clients


@pytest.mark.parametrize("number", range(ROUNDS))
def test_clients_end_well_after_a_kill_at_any_moment(world: World, tmp_path: Path, number: int) -> None:
    """The moment, what is killed, and the versions of Nix are drawn at random; a line of output says all of it."""
    chance = random.Random(f"{SEED} {number}")  # no secret
    incident, moment = list(Incident)[number % 3], chance.uniform(0.0, world.seconds)
    print(f"seed {SEED}, round {number}: {incident.value} after {moment:.3f} s")
    with machine(world, tmp_path / "disk") as disk, Site(world, disk) as site:
        clients = clients_of(world, site, chance, number)
        with ThreadPoolExecutor(len(clients)) as threads:
            first = [threads.submit(client, False) for client in clients]
            time.sleep(moment)  # not to wait for anything: this is the moment
            if incident is Incident.POWER and chance.random() < 0.5:
                _make_durable(site.state / "catalog.sqlite-wal")
            site.suffer(incident)
            print("the clients ended with", [future.result() for future in first])
            assert violations(site.root, whole=False) == []
            assert _push_all(clients) == [0, 0, 0]
        assert_all_is_well(world, site)


def _make_durable(file: Path) -> None:
    """Let the rows outlive what is not durable yet of what they name: the kernel may write anything at any time."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        os.fsync(opened.fileno())


# The system calls by which a push becomes part of what is kept, and how often at most a worker is killed at each: those
# that come all the time repeat what the first ones did.
OFTEN: Final = 6
MAX_TIMES: Final = 40
STEPS: Final = {"a file is opened": ("openat", OFTEN)}
if not backing.IN_POSTGRESQL:
    STEPS["the catalog is written"] = ("pwrite64", OFTEN)
    STEPS["the catalog becomes durable"] = ("fdatasync", MAX_TIMES)
if not backing.IN_BUCKET:
    STEPS["it is locked"] = ("flock", OFTEN)
    STEPS["a file is described"] = ("fsetxattr", MAX_TIMES)
    STEPS["it gets its name"] = ("?link,?linkat", MAX_TIMES)
    STEPS["it becomes durable"] = ("fsync", MAX_TIMES)
    STEPS["a name goes"] = ("?unlink,?unlinkat", MAX_TIMES)
if backing.IN_POSTGRESQL or backing.IN_BUCKET:
    # To the database, the bucket, the client, or another thread.
    STEPS["something is sent"] = ("write,writev,sendto,sendmsg", 2 * OFTEN)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("step", STEPS)
def test_a_client_ends_well_after_a_kill_at_each_step(world: World, tmp_path: Path, step: str) -> None:
    """The worker that comes to this system call for the first time dies there, then for the second time, and so on."""
    packages = world.packages[-4:-2]
    before = world.packages[:-4]
    calls, most = STEPS[step]
    for times in range(1, most + 1):
        incident = list(Incident)[times % 3]
        with machine(world, tmp_path / "disk") as disk, Site(world, disk) as site:
            assert push_nars_first(site, before, "before") == 0
            # What is sent is sent all the time: the kills are spread over the whole push.
            with _killing(site.workers(), calls, times**2 if "write" in calls.split(",") else times):
                ended = push_nars_first(site, packages, "run")
            site.suffer(incident)
            assert violations(site.root, whole=False) == []
            assert push_nars_first(site, packages, "run") == 0, f"{step}, time {times}, {incident.value}"
            assert push_nars_first(site, world.packages, "all") == 0
            assert_all_is_well(world, site)
        if ended == 0:
            print(f"{step}: {times - 1} kills")
            assert times > 1, f"a push never comes to {step}"
            return
    assert most < MAX_TIMES, f"more than {most} times {step}"


@contextlib.contextmanager
def _killing(workers: Sequence[int], calls: str, times: int) -> Iterator[None]:
    """Kill a worker of these when one of its threads comes to one of these system calls so often."""
    command = ["strace", "-f", "-qq", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={times}"]
    command += ["-o", os.devnull, *(argument for worker in workers for argument in ("-p", str(worker)))]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + HAS_ENDED_WITHIN
        while not all(_is_traced(worker) for worker in workers):
            assert time.monotonic() < deadline, tracer.stderr
            time.sleep(0.01)
        yield
    finally:
        # It would wait for each thread that it traces to stop, and one that was killed never does.
        tracer.kill()
        tracer.communicate(timeout=TIME_LIMIT)


def _is_traced(process: int) -> bool:
    """Whether every thread of the process has a tracer."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)
    except (FileNotFoundError, ProcessLookupError):
        return not Path(
            f"/proc/{process}"
        ).exists()  # it has come to the call already; a thread alone is looked at again


def test_the_disk_of_these_tests_forgets_what_was_not_made_durable(tmp_path: Path) -> None:
    with Disk(tmp_path / "disk") as disk:
        kept, lost = disk.path / "kept", disk.path / "lost"
        with kept.open("wb") as file:
            file.write(b"durable")
            file.flush()
            os.fsync(file.fileno())
        lost.write_bytes(b"in memory")
        disk.cut()
        assert kept.read_bytes() == b"durable"
        assert not lost.exists()
