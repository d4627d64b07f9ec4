"""Makes happen what is planned, when it is due; watches the journal and what the service holds meanwhile."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from soak.journal import Line, is_wrong
from soak.plan import Event, Happening
from soak.policy import UPSTREAMS, Doubt, Origin
from soak.samples import Sample, family, take
from soak.tally import Tally
from soak.world import World

_READ = ("--unit=harmonia-py.service", "--output=short-unix", "--no-pager", "--quiet", "--cursor-file=/run/soak.cursor")
JOURNAL_SECONDS: Final = 3.0
# Of what a program said that failed: after it comes the whole journal.
_LONGEST: Final = 1000


class Conductor:
    """Runs events, each on a thread of its own, so that one that takes long delays no other."""

    def __init__(self, world: World, tally: Tally, seed: int) -> None:
        self._world = world
        self._tally = tally
        self._chance = random.Random(f"{seed} conductor")
        self._threads = ThreadPoolExecutor(8, "event")
        self._running: list[Future[None]] = []
        # Of the same kind one after the other, and of the daemon's one at a time.
        self._locks = {what: threading.Lock() for what in Happening}
        for what in (Happening.STOP_DAEMON, Happening.KILL_DAEMON):
            self._locks[what] = self._locks[Happening.RESTART]

    def run(self, events: Sequence[Event], began: float, until: float) -> None:
        """Return at `until`, as `time.monotonic` tells it, or when something is wrong."""
        for event in events:
            if self._tally.stop.wait(max(0.0, began + event.at - time.monotonic())):
                break
            self._running = [running for running in self._running if not running.done()]
            self._running.append(self._threads.submit(self._guarded, event))
        self._tally.stop.wait(max(0.0, until - time.monotonic()))

    def end(self) -> None:
        """Wait for what still happens."""
        self._threads.shutdown(wait=True)

    def _guarded(self, event: Event) -> None:
        try:
            with self._locks[event.what]:
                if not self._tally.stop.is_set():
                    self._make(event)
        except Exception as error:  # noqa: BLE001  # a test that cannot go on has failed
            self._tally.fail(f"{event.what}: {type(error).__name__}: {str(error)[:_LONGEST]}")

    def _make(self, event: Event) -> None:
        details = f" {event.upstream} {event.fault} for {event.seconds:.1f} s" if event.fault is not None else ""
        self._tally.happens(f"{event.what}{details} begins")
        if event.what is Happening.FLAP:
            assert event.fault is not None
            with self._world.flapping(event.upstream, event.fault):
                self._tally.stop.wait(event.seconds)
        elif event.what is Happening.SUBSTITUTE:
            self._substitute()
        else:
            self._simple(event.what)()

    def _simple(self, what: Happening) -> Callable[[], None]:
        return {
            Happening.BUILD: self._world.build,
            Happening.COLLECT: self._world.collect,
            Happening.RELOAD: self._world.reload,
            Happening.RESTART: self._world.restart_daemon,
            Happening.STOP_DAEMON: self._world.stop_daemon,
            Happening.KILL_DAEMON: self._world.kill_daemon,
        }[what]

    def _substitute(self) -> None:
        path = self._chance.choice(self._world.paths.of(Origin.STORE, Origin.NGINX))
        began = time.time()
        wrong = self._world.substitute(path)
        doubts = self._world.weather.during(began, time.time()) & {Doubt.DAEMON, *UPSTREAMS.values()}
        if wrong is not None and not doubts:
            self._tally.fail(f"a client cannot substitute {path.store_path}:\n{wrong}")
        self._tally.answered("nix-store --realise", "failed" if wrong else "realised", time.time() - began, 0)


class Watch:
    """Reads the journal and takes samples, on threads of its own."""

    def __init__(self, world: World, tally: Tally, every: float) -> None:
        self._world = world
        self._tally = tally
        self._every = every
        self._machine = world.machine
        self._main = world.machine.main_pid()
        self.processes = family(self._machine.leader, self._main)
        self.samples: list[Sample] = []
        self.lines: deque[Line] = deque(maxlen=200)
        self._began = time.monotonic()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._sample), threading.Thread(target=self._follow)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        self.read()

    def read(self) -> None:
        """What the service has said since the last time."""
        for text in self._machine.run("journalctl", *_READ, check=False).splitlines():
            line = Line.parse(text)
            if line is None or line.is_access:
                continue
            self.lines.append(line)
            if is_wrong(line, self._world.weather):
                self._tally.fail(f"the service says: {text}")

    def _sample(self) -> None:
        while True:
            processes = family(self._machine.leader, self._main)
            if processes != self.processes:
                self._tally.fail(f"its processes were {self.processes} and are {processes}")
            sample = take(processes, time.monotonic() - self._began)
            if sample is not None:
                self.samples.append(sample)
            if self._end.wait(self._every):
                return

    def _follow(self) -> None:
        while not self._end.wait(JOURNAL_SECONDS):
            self.read()
