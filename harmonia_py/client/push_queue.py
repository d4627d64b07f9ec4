"""A queue of store paths that are to be pushed: a directory, into which a hook of a build writes and never waits.

new/<time>-<random>    what one build has made: full store paths, separated by space
aside/<store path>     what could not be pushed, and why: a line for people

An entry appears whole, by a rename, and is on the disk by then. It goes when everything that it names is served. So
neither a restart of the machine, the service or the server loses one, and one that is pushed twice does no harm.
"""

import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.client.queue_entry import NEW, write_entry
from harmonia_py.errors import FormatError, StorageError, describe_os_error
from harmonia_py.nix.store_path import StoreDir, StorePath

_MAX_BYTES: Final = 1024 * 1024


class QueueState(Struct, frozen=True):
    """The content of the queue.

    Attributes:
        waiting: number of entries.
        oldest: when the first of them came, in seconds since the epoch; None when there is none.
        aside: paths that could not be pushed, with the reasons.
    """

    waiting: int
    oldest: float | None
    aside: Sequence[tuple[str, str]]


class PushQueue:
    """The queue in `directory`, which is made when something is added.

    Raises everywhere:
        StorageError: it cannot be read or written.
    """

    def __init__(self, directory: Path) -> None:
        self._new = directory / NEW
        self._aside = directory / "aside"

    def add(self, paths: Collection[str]) -> None:
        """Add full store paths as one entry; when this returns, it outlives a power cut."""
        with _errors_of_the_queue():
            write_entry(str(self._new.parent), paths)

    def entries(self, most: int) -> Sequence[str]:
        """The names of up to `most` entries, the oldest first; a file of another name is none."""
        with _errors_of_the_queue(), suppress(FileNotFoundError):
            names = sorted(file.name for file in self._new.iterdir())
            return [name for name in names if name.partition("-")[0].isdecimal()][:most]
        return ()

    def read(self, name: str, store_dir: StoreDir) -> Collection[StorePath]:
        """The store paths of an entry; lines that are no store path are set aside."""
        words: list[str] = []
        # Another service may have pushed what it names, and removed it.
        with _errors_of_the_queue(), suppress(FileNotFoundError), (self._new / name).open("rb") as stream:
            words = stream.read(_MAX_BYTES).decode(errors="replace").split()
        paths: list[StorePath] = []
        for word in words:
            try:
                paths.append(store_dir.parse_path(word))
            except FormatError:
                self.set_aside(secrets.token_hex(8), f"{word!r} is not a path in {store_dir}")
        return paths

    def done(self, names: Collection[str]) -> None:
        """Remove entries."""
        with _errors_of_the_queue():
            for name in names:
                (self._new / name).unlink(missing_ok=True)

    def set_aside(self, path: str, reason: str) -> None:
        """Note that a path could not be pushed. It does not keep the others waiting."""
        with _errors_of_the_queue():
            self._aside.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._aside / path).write_text(f"{reason}\n", encoding="utf-8")

    def state(self) -> QueueState:
        """The content of the queue."""
        entries = self.entries(1_000_000)
        oldest = int(entries[0].partition("-")[0]) / 1e9 if entries else None
        with _errors_of_the_queue():
            files = sorted(self._aside.iterdir()) if self._aside.exists() else []
            aside = [(file.name, file.read_text(encoding="utf-8", errors="replace").strip()) for file in files]
        return QueueState(len(entries), oldest, aside)


@contextmanager
def _errors_of_the_queue() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the queue: {describe_os_error(error)}") from None
