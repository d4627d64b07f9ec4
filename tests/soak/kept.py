"""A soak of what is pushed: real clients push, substitute, pin; it is collected, killed, filled and damaged meanwhile.

    python -m soak.kept --seconds 90 [--seed 7] [--json FILE]         # as root, with the Nix versions that there are
    HARMONIA_PY_BACKING="postgresql s3" python -m soak.kept           # the catalog in PostgreSQL, the files in a bucket

PostgreSQL is restarted from time to time, and the bucket answers wrongly. Large files are read from the bucket itself.

An oracle asks all the time: each narinfo that is answered with 200 leads at that moment to its NAR, with the right
hash, and to the narinfos of its references. It ends with status 1 at the first that does not, at the first wrong byte,
at the first answer that nothing explains, when no push goes well for `IDLE_SECONDS` or half of the run, and when what
is kept takes more than `MOST` of `max_size`.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import backing
import prefork
from lab import Lab
from nix_versions import VERSIONS, NixVersion
from ports import free_port
from s3_double import Weather
from server import START_LIMIT, Answer, Server
from soak.evidence import Damages, Evidence
from soak.places import Places

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, CacheSettings, Timestamp
from harmonia_py.catalog.uploads import Session
from harmonia_py.contents.codecs import Unpacker
from harmonia_py.errors import FormatError, HarmoniaError
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StorePath

MIB: Final = 1024 * 1024
MAX_SIZE: Final = 24 * MIB
MOST: Final = 1.05
# The file system of the state directory, with the catalog and what waits to be deleted.
DISK: Final = 96 * MIB
GRACE: Final = 6
SCRUB_SECONDS: Final = 30
# Within so long the scrub finds a file of a bucket that another program has replaced. Until then it is sent, and
# refused by who gets it. When the bucket or the database fails under it, the scrub rests for a minute.
FOUND_SECONDS: Final = 10 * SCRUB_SECONDS
# So long after it was told of a path the oracle expects to find what that promised.
PROMISE_SECONDS: Final = 3.0
RESTART_SECONDS: Final = 10.0
# As systemd does it; on a busy machine, or while the database and the bucket fail, one may not end in time.
STARTS: Final = 3
# A machine that is suspended, or a run that is stopped, shows no fault of the server; no time limit holds then.
BEAT_SECONDS: Final = 0.5
STOOD_STILL_SECONDS: Final = 5.0
TEAM: Final = CacheName("team")
# The cache is full all the time, and by collecting has room again for the next push; a busy machine does little in it.
IDLE_SECONDS: Final = 300.0
FROM_THE_BUCKET: Final = "answers of the bucket itself"
HELD: Final = "narinfos that were held to their promise"

_CLOSURES: Final = """
let
  blob = name: size: refs: builtins.toFile name (toString refs + builtins.readFile (@DATA@ + "/${name}") );
  libc = blob "libc-@RELEASE@" 0 [ ];
  ssl = blob "ssl-@GENERATION@" 0 [ libc ];
  apps = map (n: blob "app@GENERATION@-${toString n}" 0 [ libc ssl ]) [ 1 2 3 ];
in builtins.concatStringsSep "\\n" ([ libc ssl ] ++ apps)
"""


class World:
    """The server, the store that is pushed from, and what has happened."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)
        self.stop = threading.Event()
        self.wrong: str | None = None
        self.counts: Counter[str] = Counter()
        self.recent: list[str] = []
        self.pushed: list[StorePath] = []
        # When the service was not there, or had no room.
        self.troubles: list[list[float]] = []
        self.damages = Damages()
        self.beat = time.monotonic()
        self.stood_still = 0.0
        self.largest = 0
        self.last_push = time.monotonic()
        self.lock = threading.Lock()
        self.serving = threading.RLock()
        self.lab = Lab(root).__enter__()
        self.versions = [one for one in VERSIONS if one.missing is None]
        for version in self.versions:
            version.wrap(self.lab.env, root)  # before there are threads that run what it writes
        self.port = free_port()
        self.state = root / "server" / "state"
        self.state.mkdir(parents=True)
        self.places = Places(root, self.state)
        self.evidence = Evidence(self.places.ask, self.damages)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.state], check=True)
        settings = {
            "workers": 2,
            "virtual_nix_store": self.lab.store_dir,
            "daemon_socket": "/nowhere/socket",
            "real_nix_store": "/nowhere/store",
            "state_directory": str(self.state),
            "access_log": False,
            "storage": {"scrub_every": SCRUB_SECONDS} | self.places.settings,
        }
        self.server = Server(root, os.environ, settings, bind=f"127.0.0.1:{self.port}")
        self.server.__enter__()
        self.command("cache", "create", "team")
        self.token = self.command("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
        self.cache = asyncio.run(self._configure())
        # A catalog that a command made is opened at a start.
        self.server.process.send_signal(signal.SIGHUP)

    async def _configure(self) -> CacheId:
        async with self.places.catalog() as catalog:
            row = await catalog.caches.configure(TEAM, CacheSettings(max_size=MAX_SIZE, grace=GRACE), declared=False)
            assert row is not None
            return row.id

    def close(self) -> None:
        self.server.stop()
        subprocess.run(["umount", "-l", self.state], check=False)
        self.lab.__exit__(None, None, None)

    def command(self, *arguments: str, check: bool = True) -> str:
        config = self.root / "server" / "harmonia.toml"
        env = {"PATH": os.environ["PATH"], "HOME": str(self.root)}
        done = prefork.run(*arguments, "--config", str(config), cwd=self.root, env=env)
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: {done.stderr}")
        return done.stdout

    def known(self, path: StorePath) -> str:
        """What the catalog has of a path, and what the server says of it now, for the report of a failure."""
        again = [answer and answer.status for answer in (self.get(f"/{path.hash_part}.narinfo") for _ in range(4))]
        output = self.server.output().splitlines()[-30:]
        return "\n".join([f"asked again {again}", self.evidence.told([path]), "the server said:", *output])

    def note(self, what: str, detail: str = "") -> None:
        with self.lock:
            self.counts[what] += 1
            if what not in (HELD, FROM_THE_BUCKET):  # there are too many
                self.recent = [*self.recent[-80:], f"{time.time():.2f} {what} {detail}"]

    def fail(self, words: str) -> None:
        with self.lock:
            if self.wrong is None:
                self.wrong = words
        self.stop.set()

    def in_trouble(self, since: float) -> bool:
        """Whether anything that explains a failure has happened since then."""
        self.look_at_the_clock()
        with self.lock:
            return any(end >= since for _, end in self.troubles)

    def look_at_the_clock(self) -> None:
        """Note when nothing here has run for a while: until shortly after it, failures have a reason."""
        with self.lock:
            now = time.monotonic()
            gap, self.beat = now - self.beat, now
            if gap <= STOOD_STILL_SECONDS:
                return
            self.stood_still += gap
            self.troubles.append([time.time() - gap, time.time() + RESTART_SECONDS])
        self.note("times that the machine stood still", f"{gap:.0f} s")

    @contextmanager
    def trouble(self, recovery: float = RESTART_SECONDS) -> Iterator[None]:
        """What fails meanwhile, or so long after it, has a reason."""
        span = [time.time(), inf]
        with self.lock:
            self.troubles.append(span)
        try:
            yield
        finally:
            span[1] = time.time() + recovery

    def url(self, place: str = "") -> str:
        return f"http://x:{self.token}@127.0.0.1:{self.port}/team{place}"

    def get(self, place: str) -> Answer | None:
        """The answer, of the bucket when it is that which has it; None when there is none."""
        try:
            answer = self.server.get(f"/team{place}", {"Authorization": f"Bearer {self.token}"})
            return answer if answer.status // 100 != 3 else self._sent_on(answer.headers["Location"])
        except (OSError, http.client.HTTPException):
            return None

    def _sent_on(self, url: str) -> Answer:
        self.note(FROM_THE_BUCKET)
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=START_LIMIT)
        with closing(connection):
            connection.request("GET", f"{parts.path}?{parts.query}")
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())


def forever(world: World, pause: tuple[float, float], act: Callable[[World, random.Random], None]) -> threading.Thread:
    """A thread that acts again and again; an exception ends the run."""
    chance = random.Random(world.chance.random())

    def run() -> None:
        while not world.stop.wait(chance.uniform(*pause)):
            still = world.stood_still
            try:
                act(world, chance)
            except Exception as error:  # noqa: BLE001  # whatever it is, it ends the run
                world.look_at_the_clock()
                if world.stood_still == still:
                    world.fail(f"{act.__name__}: {type(error).__name__}: {error}")
                else:
                    world.note("acts that standing still ended", act.__name__)

    thread = threading.Thread(target=run, name=act.__name__)
    thread.start()
    return thread


# Clients


class Pusher:
    """One version of Nix, which builds closures that share their bases with those of the others, and pushes them."""

    def __init__(self, version: NixVersion, number: int) -> None:
        self.version = version
        self.number = number
        self.generation = 0
        self.begun: list[str] = []
        self.__name__ = f"push with {version.name}"

    def __call__(self, world: World, chance: random.Random) -> None:
        self.generation += 1
        paths = self._build(world, chance)
        env = self.version.wrap(world.lab.env, world.root)
        run, begun = f"{self.number}-{self.generation}", time.time()
        tops = [world.lab.full(path) for path in paths[2:]]
        command = ["nix", "copy", "--to", world.url(f"/push/{run}") + "?compression=zstd", *tops]
        done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=120)
        said = done.stderr.decode(errors="replace")
        if done.returncode == 0:
            world.note(f"pushed with Nix {self.version.name}", run)
            world.last_push = time.monotonic()
            self._all_there(world, paths, begun)
        elif "507" in said or "is full" in said:
            world.note("push refused for want of room")
        elif world.in_trouble(begun):
            world.note("push ended by trouble")
        else:
            world.fail(f"{' '.join(command[:4])} failed:\n{said}")
        with world.lock:
            world.pushed = [*world.pushed[-400:], *paths]
        self.begun.append(run)
        asyncio.run(self._end_sessions(world))

    def _build(self, world: World, chance: random.Random) -> list[StorePath]:
        data = world.root / f"data-{self.number}-{self.generation}"
        data.mkdir()
        release, generation = self.generation // 4, f"{self.number}-{self.generation}"
        names = [f"libc-{release}", f"ssl-{generation}", *(f"app{generation}-{number}" for number in (1, 2, 3))]
        for name in names:
            size = chance.randrange(20_000, 600_000)
            noise = random.Random(name).randbytes(size * 3 // 4 if not name.startswith("libc") else 300_000)
            (data / name).write_text(noise.hex().upper())
        text = _CLOSURES.replace("@DATA@", str(data)).replace("@RELEASE@", str(release))
        expression = text.replace("@GENERATION@", generation)
        told = world.lab.run(
            "nix-instantiate", "--read-write-mode", "--eval", "--strict", "--json", "-E", expression
        ).stdout
        shutil.rmtree(data)
        return [world.lab.store_dir.parse_path(line) for line in json.loads(told).split("\n")]

    @staticmethod
    def _all_there(world: World, paths: list[StorePath], begun: float) -> None:
        """What a push that ended well has brought, or was told is here, is there: the session is a lease on it."""
        for path in paths:
            answer = world.get(f"/{path.hash_part}.narinfo")
            if answer is None or answer.status != 200:
                if world.in_trouble(begun):
                    world.note("pushed and not asked in peace")
                elif world.evidence.is_hidden_by_damage(path, begun):
                    world.note("pushed, and hidden by damage that was found afterwards")
                else:
                    world.fail(f"{path} was pushed, and is {answer and answer.status}; {world.known(path)}")
                return

    async def _end_sessions(self, world: World) -> None:
        """As a client that knows the push API does; the stock ones leave a lease of a day.

        What the catalog was away for is tried again after the next push: such leases would keep all that is here.
        """
        try:
            async with world.places.catalog() as catalog:
                while self.begun:
                    key = hashlib.sha256(f"{world.cache}\0token ci\0{self.begun[0]}".encode()).digest()
                    now = Timestamp(int(time.time()))
                    session = Session(id=base32.encode(key[:20]), cache=world.cache, principal="", begun=now, seen=now)
                    await catalog.uploads.session(session, end=True)
                    del self.begun[0]
        except HarmoniaError:
            world.note("sessions not ended yet")


def substitute(world: World, chance: random.Random) -> None:
    with world.lock:
        paths = world.pushed[-60:]
    if not paths:
        return
    path, begun = chance.choice(paths), time.time()
    narinfo = _narinfo_of(world, path.hash_part)
    if narinfo is None:
        return
    version = chance.choice(world.versions)
    client = world.lab.client(f"client-{time.time_ns()}")
    try:
        client.env = version.wrap(client.env, world.root)
        options = ["--option", "substituters", world.url(), "--option", "require-sigs", "false"]
        done = client.run("nix-store", "--realise", world.lab.full(path), *options, check=False)
        if done.returncode == 0:
            dumped = client.run("nix-store", "--dump", str(client.real(path)), check=False)
            if dumped.returncode != 0 or dumped.stdout != world.lab.dump(path):
                said = (done.stdout + done.stderr + dumped.stderr).decode(errors="replace")
                world.fail(f"{path}: Nix {version.name} got other bytes: {said}")
            world.note(f"substituted by Nix {version.name}")
        elif world.in_trouble(begun):
            world.note("substitution ended by trouble")
        elif (
            world.evidence.is_hidden_by_damage(path, begun)
            or world.damages.any_of(_keys(narinfo))
            or _is_damaged_in_bucket(world, path, begun)
        ):
            world.note("substitution ended by damage")
        elif time.time() - begun > GRACE:
            world.note("substitution took longer than the grace")
        else:
            said = done.stderr.decode(errors="replace")
            world.fail(f"{path}: Nix {version.name}: {said}\n{world.known(path)}")
    finally:
        subprocess.run(["chmod", "-R", "u+w", client.root], check=False)
        shutil.rmtree(client.root, ignore_errors=True)


# The oracle


def oracle(world: World, chance: random.Random) -> None:
    with world.lock:
        paths = world.pushed[-300:]
    if not paths:
        return
    path, begun = chance.choice(paths), time.time()
    narinfo = _narinfo_of(world, path.hash_part)
    if narinfo is None:
        return
    world.note(HELD)
    told = time.time()
    _hold(world, narinfo, begun, told)
    for reference in narinfo.path_info.references:
        answer = world.get(f"/{reference.hash_part}.narinfo")
        if answer is None or answer.status != 200:
            words = f"{path} was there, and {reference} is {answer and answer.status}; {world.known(reference)}"
            _explain(world, words, reference, begun, told)


def _narinfo_of(world: World, hash_part: HashPart) -> NarInfo | None:
    answer = world.get(f"/{hash_part}.narinfo")
    if answer is None or answer.status == 404:
        return None
    if answer.status != 200:
        world.note(f"narinfo {answer.status}")
        return None
    return NarInfo.parse(answer.body, world.lab.store_dir)


def _keys(narinfo: NarInfo) -> list[str]:
    """The key under which the server keeps the file of a path."""
    assert narinfo.file_hash is not None
    return [f"nar/{narinfo.file_hash.nix32}.nar.zst"]


def _hold(world: World, narinfo: NarInfo, begun: float, told: float) -> None:
    path = narinfo.path_info.store_path
    answer = world.get(f"/{narinfo.url}")
    if answer is None or answer.status != 200:
        if answer is None and world.damages.any_of(_keys(narinfo)):
            world.note("answers that were cut where the file is")
            return
        words = f"the NAR of {path} is {answer and answer.status}; {world.known(path)}"
        _explain(world, words, path, begun, told)
        return
    unpacker = Unpacker(narinfo.compression)
    try:
        nar = b"".join(bytes(portion) for portion in unpacker.feed(answer.body))
    except FormatError as error:
        _wrong_bytes(world, f"the NAR of {path} does not unpack: {error}", narinfo, begun)
        return
    if Hash.of(answer.body) != narinfo.file_hash or Hash.of(nar) != narinfo.path_info.nar_hash:
        _wrong_bytes(world, f"the NAR of {path} has wrong bytes", narinfo, begun)
        return
    for key in _keys(narinfo):
        world.damages.found_right(key, begun)


def _wrong_bytes(world: World, words: str, narinfo: NarInfo, begun: float) -> None:
    """A file that was changed before it was asked for is never sent from a disk; one that changes on its way may be."""
    if any(world.damages.since(key, begun - _unseen_for()) for key in _keys(narinfo)):
        world.note("promises that damage broke")
    else:
        world.fail(f"{words}; {world.known(narinfo.path_info.store_path)}")


def _explain(world: World, words: str, path: StorePath, begun: float, told: float) -> None:
    """See whether what was promised was damaged meanwhile, or could not be asked for in time."""
    if world.in_trouble(begun):
        world.note("promises that trouble kept from being looked at")
    elif time.time() - told > PROMISE_SECONDS:
        world.note("promises that were looked at too late")
    elif world.evidence.is_hidden_by_damage(path, begun) or _is_damaged_in_bucket(world, path, begun):
        world.note("promises that damage broke")
    else:
        world.fail(words)


def _is_damaged_in_bucket(world: World, path: StorePath, begun: float) -> bool:
    """Whether a file of the path or of its closure is one that the server has not found to be damaged yet."""
    return backing.IN_BUCKET and world.evidence.has_damage_since(path, begun - _unseen_for())


def _unseen_for() -> float:
    """For so many seconds a file that was changed may be sent as it is."""
    return FOUND_SECONDS if backing.IN_BUCKET else 0.0


# What is done to it


def collect(world: World, _chance: random.Random) -> None:
    world.command("gc", check=False)
    world.note("collections")


def pin(world: World, chance: random.Random) -> None:
    with world.lock:
        paths = world.pushed[-40:]
    if not paths:
        return
    name = chance.choice(("release", "nightly", "branch"))
    if chance.random() < 0.5:
        world.command("pin", "remove", "team", name, check=False)
        world.note("pins removed")
    else:
        world.command("pin", "set", "team", name, world.lab.full(chance.choice(paths)), check=False)
        world.note("pins set")


def kill_a_worker(world: World, chance: random.Random) -> None:
    with world.serving, world.trouble(recovery=3.0):
        workers = world.server.processes()[1:]
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            world.note("workers killed")


def kill_the_service(world: World, _chance: random.Random) -> None:
    with world.serving, world.trouble():
        world.server.kill()
        for left in reversed(range(STARTS)):
            try:
                world.server.__enter__()
            except AssertionError:
                if not left:
                    raise
                world.note("starts that took too long")
            else:
                break
        world.note("services killed")


def fill_the_disk(world: World, chance: random.Random) -> None:
    ballast = world.state / "ballast"
    with world.trouble():
        try:
            with suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(b"x" * MIB)
                    file.flush()
            world.note("disks filled")
            world.stop.wait(chance.uniform(2.0, 4.0))
        finally:
            ballast.unlink()


def damage(world: World, chance: random.Random) -> None:
    """Delete, cut, or change a file; the next to read it finds out, or the scrub, which reads all in half a minute."""
    with world.lock:
        paths = world.pushed[-40:]
    if not paths:
        return
    narinfo = _narinfo_of(world, chance.choice(paths).hash_part)
    if narinfo is None or narinfo.file_hash is None:
        return
    (key,) = _keys(narinfo)
    what = chance.choice(("deleted", "cut", "changed"))
    with suppress(FileNotFoundError), world.damages.done_to(key, narinfo.path_info.store_path.hash_part):
        if what == "deleted":
            world.places.lose(key)
        elif what == "cut":
            world.places.cut(key)
        else:
            world.places.change(key, chance)
        world.note(f"files {what}", narinfo.path_info.store_path)


def restart_the_database(world: World, chance: random.Random) -> None:
    with world.trouble(recovery=3.0):
        world.places.restart_database(chance.choice((signal.SIGQUIT, signal.SIGINT)))
        world.note("databases restarted")


def let_the_bucket_fail(world: World, chance: random.Random) -> None:
    weather = Weather(random.Random(chance.random()), chance.choice((0.1, 0.3, 1.0)))
    with world.trouble(), world.places.storm(weather):
        world.stop.wait(chance.uniform(2.0, 4.0))
        world.note("buckets that failed")


def look_at_the_clock(world: World, _chance: random.Random) -> None:
    world.look_at_the_clock()


def measure(world: World, _chance: random.Random) -> None:
    world.largest = max(world.largest, world.places.size())


def soak(world: World, seconds: float) -> None:
    world.beat = time.monotonic()
    pushers = [Pusher(version, number) for number, version in enumerate(world.versions)]
    threads = [
        *(forever(world, (0.2, 1.0), pusher) for pusher in pushers),
        *(forever(world, (0.0, 0.05), oracle) for _ in range(3)),
        forever(world, (0.5, 2.0), substitute),
        forever(world, (2.0, 4.0), collect),
        forever(world, (2.0, 6.0), pin),
        forever(world, (10.0, 20.0), kill_a_worker),
        forever(world, (40.0, 70.0), kill_the_service),
        forever(world, (25.0, 45.0), fill_the_disk),
        forever(world, (12.0, 25.0), damage),
        forever(world, (0.3, 0.6), measure),
        forever(world, (BEAT_SECONDS, BEAT_SECONDS), look_at_the_clock),
    ]
    if backing.IN_POSTGRESQL:
        threads.append(forever(world, (60.0, 120.0), restart_the_database))
    if backing.IN_BUCKET:
        threads.append(forever(world, (60.0, 120.0), let_the_bucket_fail))
    begun, idle = time.monotonic(), min(IDLE_SECONDS, seconds / 2)
    while (left := begun + seconds + world.stood_still - time.monotonic()) > 0 and not world.stop.wait(min(10.0, left)):
        counts = ", ".join(f"{what} {count}" for what, count in sorted(world.counts.items()))
        print(f"{left:5.0f} s left; {world.largest / MAX_SIZE:.3f} of max_size; {counts}", flush=True)
        if time.monotonic() - world.last_push > idle + world.stood_still:
            world.fail(f"no push went well for {idle:.0f} s; {world.evidence.told([])}")
    world.stop.set()
    for thread in threads:
        thread.join(150)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak.kept", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="the summary, as a file")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("soak.kept: only root can mount the file system that fills", file=sys.stderr)
        return 77
    with tempfile.TemporaryDirectory(prefix="kept-", ignore_cleanup_errors=True) as root:
        world = World(Path(root), options.seed)
        try:
            soak(world, options.seconds)
        finally:
            world.stop.set()
            world.close()
    if world.wrong is None and world.largest > MOST * MAX_SIZE:
        world.wrong = f"the files took {world.largest / MAX_SIZE:.3f} of max_size"
    summary: dict[str, Any] = {
        "good": world.wrong is None,
        "seconds": options.seconds,
        "stood still": round(world.stood_still),
        "seed": options.seed,
        "backing": os.environ.get("HARMONIA_PY_BACKING", ""),
        "versions": [version.name for version in world.versions],
        "largest": round(world.largest / MAX_SIZE, 3),
        "wrong": world.wrong,
        "counts": dict(sorted(world.counts.items())),
    }
    print(json.dumps(summary, indent=2))
    if world.wrong is not None:
        print("\n".join(["what happened before:", *world.recent]))
    if options.json is not None:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    return 0 if world.wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
