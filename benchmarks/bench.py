"""What every measurement shares: the closure, the contenders, the rounds, the time that is left, and the samples."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from benchmarks import BenchmarkError, client
from benchmarks.closure import TEMPORARY_PREFIX, Closure
from benchmarks.processes import Watch
from benchmarks.servers import Contender, Server, Setting

CLIENT_TIMEOUT_SECONDS = 900

P = ParamSpec("P")
T = TypeVar("T")


class OutOfTimeError(BenchmarkError):
    """The time that was given is used up; what was measured so far counts."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What harmonia-py promises of a case.

    Attributes:
        limit: the value, or its ratio to the reference server's; at most, or at least where more is better.
        server: the reference, or None when the limit is absolute.
    """

    limit: float
    server: str | None = "nginx"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured of every server.

    Attributes:
        section: the group it belongs to.
        what: in words, for the table.
        unit: of its values.
        more_is_better: whether a larger value is the better one.
        goal: what harmonia-py promises, if it does.
        is_cost: whether the value says what something costs, not how fast it is.
    """

    section: str
    what: str
    unit: str
    more_is_better: bool = False
    goal: Goal | None = None
    is_cost: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value.

    Attributes:
        case: what was measured.
        server: of whom.
        value: in the unit of the case.
        cpu_seconds: of the server's processes meanwhile, when they could be seen.
        peak_pss: bytes of memory they had at most.
    """

    case: Case
    server: str
    value: float
    cpu_seconds: float | None = None
    peak_pss: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A running server and what to ask it for.

    Attributes:
        server: the server.
        narinfos: one for every path of the closure.
        nars: the URL that each narinfo names, in the same order.
    """

    server: Server
    narinfos: Sequence[str]
    nars: Sequence[str]


class Bench:
    """The run.

    Attributes:
        closure: what the servers serve.
        contenders: whom to measure, the reference first.
        workers: processes of each server.
        rounds: how often each case is measured, servers taking turns.
    """

    def __init__(
        self,
        closure: Closure,
        contenders: Sequence[Contender],
        *,
        workers: int,
        rounds: int,
        seconds: float,
        executor: Executor,
        say: Callable[[str], None],
    ) -> None:
        self.closure = closure
        self.contenders = contenders
        self.workers = workers
        self.say = say
        self._rounds = rounds
        self._deadline = time.monotonic() + seconds
        self._executor = executor
        self._paths = sorted(closure.paths)  # the order of hash parts: big and small paths mixed

    def check_time(self) -> None:
        """Raises OutOfTimeError once the deadline has passed."""
        if time.monotonic() > self._deadline:
            raise OutOfTimeError("the time limit is reached")

    def rounds(self, at_most: int = 1_000_000) -> Iterator[int]:
        """Number every round; `at_most` is for what takes long."""
        for number in range(1, min(self._rounds, at_most) + 1):
            self.check_time()
            yield number

    def client(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns in the client's process, so that neither disturbs the other."""
        return self._executor.submit(call, *args, **kwargs).result(CLIENT_TIMEOUT_SECONDS)

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """A directory beside the closure, for what a server keeps."""
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self.closure.directory) as name:
            yield Path(name)

    @contextmanager
    def running(self, contender: Contender, setting: Setting, directory: Path | None = None) -> Iterator[Server]:
        """A fresh server; in `directory`, where one is given, it finds what an earlier one kept there."""
        self.check_time()
        with ExitStack() as stack:
            place = stack.enter_context(self.directory()) if directory is None else directory
            yield stack.enter_context(contender.start(setting, place))

    @contextmanager
    def all_running(self, setting: Setting, *, any_form: bool = False) -> Iterator[list[Target]]:
        """Every contender that offers this form, side by side; peers offer what they do."""
        with ExitStack() as stack:
            targets = []
            for contender in self.contenders:
                target = self.resolve(
                    stack.enter_context(self.running(contender, setting)), None if any_form else setting.form
                )
                if target is not None:
                    targets.append(target)
            yield targets

    def resolve(self, server: Server, form: str | None, cache: str = "") -> Target | None:
        """Ask a server for all narinfos below `cache`; None when it offers NARs in another form than `form`."""
        narinfos = [f"{cache}/{path[:32]}.narinfo" for path in self._paths]
        nars = []
        with client.Connection(server.address) as connection:
            for narinfo in narinfos:
                fields = dict(line.split(": ", 1) for line in connection.get(narinfo).decode().splitlines())
                offered = fields.get("Compression", "bzip2")
                if form not in (None, offered):
                    self.say(f"{server.name} offers {offered}, not {form}: left out here")
                    return None
                nars.append(f"{cache}/{fields['URL']}")
        return Target(server, narinfos, nars)

    def nar_of(self, target: Target, base_name: str) -> str:
        """The URL of the NAR of a path of the closure."""
        return target.nars[self._paths.index(base_name)]

    def time_downloads(self, case: Case, target: Target, nars: Sequence[str], connections: int) -> Sample:
        """Download every one of `nars`; the value is in seconds."""
        self.check_time()
        with Watch(target.server.tree) as watch:
            seconds, _ = self.client(client.drain_all, target.server.address, nars, connections)
        return Sample(case, target.server.name, seconds, watch.cpu_seconds, watch.peak_pss)


def drop_from_page_cache(directories: Sequence[Path]) -> None:
    """Make the next reader of these files wait for the disk."""
    os.sync()  # only clean pages can be dropped
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for name in names:
                path = os.path.join(parent, name)  # noqa: PTH118 -- tens of thousands of files
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                except OSError:  # a symbolic link
                    continue
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


def require(tool: str) -> str:
    """The full name of a command.

    Raises:
        BenchmarkError: it is not installed.
    """
    found = shutil.which(tool)
    if found is None:
        raise BenchmarkError(f"{tool} is not installed")
    return found
