"""The port `StoreMetadata`: what the local store must be asked before one of its paths can be served.

The nix-daemon answers these questions (`daemon.py`), and so does the store's database (`sqlite.py`).
"""

from collections.abc import Sequence
from typing import Protocol

from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath


class StoreMetadata(Protocol):
    """What a store knows of its paths. Who cannot tell raises a `DaemonError`."""

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none."""

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What `output` was realised as; None when the store does not know, or does not keep keys of this kind."""

    async def all_paths(self) -> Sequence[StorePath]:
        """Every valid path, in no particular order."""

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        """The valid paths that refer to `store_path`, in no particular order; itself included when it does."""

    async def aclose(self) -> None:
        """Give back every connection, thread and descriptor."""
