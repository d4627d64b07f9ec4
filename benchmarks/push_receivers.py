"""What pushes go to, each with nothing in it yet: this project, and ncps where `NCPS_BIN` names it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import servers
from benchmarks.bench import Bench
from benchmarks.closure import MIB, TEMPORARY_PREFIX, Recipe
from benchmarks.servers import Server, Setting

RECIPE: Final = Recipe("push", ("build-essential", "gimp", "git", "vim"), 2_000, 256 * MIB, 301, 3 << 30)


@dataclass(frozen=True, slots=True)
class Run:
    """What every section needs.

    Attributes:
        bench: the closure and the rounds.
        tree: the tree of this project that is measured.
        large: bytes that each of many clients pushes.
    """

    bench: Bench
    tree: Path
    large: int


@dataclass(frozen=True, slots=True)
class Receiver:
    """A running server that takes pushes.

    Attributes:
        server: the server.
        upload: the path below which it takes them.
        cache: the path below which it gives what was pushed.
        token: goes with every push; empty where the server asks for none.
    """

    server: Server
    upload: str
    cache: str
    token: str = ""

    def url(self, form: str) -> str:
        """The store URL for a `nix copy` that compresses as `form`."""
        user = f"x:{self.token}@" if self.token else ""
        return f"http://{user}{self.server.address[0]}:{self.server.address[1]}{self.upload}?compression={form}"


@contextmanager
def team(run: Run, beside: Path | None = None) -> Iterator[Receiver]:
    """This project with the public cache `team`."""
    with directory(run, beside) as place:
        contender = servers.team(run.bench.closure, run.tree)
        with contender.start(Setting("zstd", run.bench.workers), place) as server:
            yield Receiver(server, "/team/push/r", "/team", servers.make_token(run.tree, place))


@contextmanager
def ncps(run: Run, beside: Path | None = None, *, binary: str) -> Iterator[Receiver]:
    """ncps, which writes what it is sent, waits for its database alone, and verifies nothing."""
    setting = Setting("zstd", run.bench.workers)
    with directory(run, beside) as place, servers.ncps_put(binary).start(setting, place) as server:
        yield Receiver(server, "/upload", "")


Start = Callable[[Run, Path | None], AbstractContextManager[Receiver]]


def receivers() -> list[Start]:
    """Starts of all that take pushes, this project last."""
    binary = os.environ.get("NCPS_BIN")
    return [*([partial(ncps, binary=binary)] if binary else []), team]


@contextmanager
def directory(run: Run, beside: Path | None) -> Iterator[Path]:
    """An empty directory in `beside`, or in that of the closure, once nothing waits to be written."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=beside or run.bench.closure.directory) as name:
        # What an earlier measurement has left to write would be waited for by the first that waits for the disk.
        os.sync()
        yield Path(name)
