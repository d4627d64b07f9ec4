"""The port `StoreMetadata`: the questions that a local store answers before one of its paths can be served.

The nix-daemon answers these questions (`daemon.py`), and so does the store's database (`sqlite.py`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath


class StoreMetadata(Protocol):
    """The metadata of a store's paths. A store that cannot tell raises a `DaemonError`."""

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none."""

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of `output`; None when the store does not know it, or does not keep keys of this kind."""

    async def all_paths(self) -> Sequence[StorePath]:
        """Every valid path, in no particular order."""

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        """The valid paths that refer to `store_path`, in no particular order; itself included when it does."""

    async def aclose(self) -> None:
        """Give back every connection, thread and descriptor."""


class Looked(NamedTuple):
    """The facts about a valid path, and whether its files are there; None when they were not looked at."""

    info: PathInfo
    is_there: bool | None


Look = Callable[[StorePath], bool]
"""Whether anything of a path is in the store directory. It waits for the disk."""


@runtime_checkable
class LooksUp(Protocol):
    """A store that reads of a path and looks at its files in one thread: handing over takes longer than either."""

    async def look_up(self, hash_part: HashPart, look: Look) -> Looked | None:
        """The facts about the valid path with this hash part, which `look` is given; None when there is none."""
