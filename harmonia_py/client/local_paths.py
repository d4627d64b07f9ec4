"""The port `LocalPaths`: the store that the client pushes from."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath


class Closure(Protocol):
    """Paths and all that they refer to, as a store has them at one moment.

    Attributes:
        sizes: the bytes of the NAR of each path.
    """

    sizes: Mapping[StorePath, int]

    def infos(self, wanted: Collection[StorePath]) -> Sequence[PathInfo]:
        """The path infos of some of the paths, references before what refers to them. Of many it takes a while.

        Raises:
            DaemonError: the store does not tell.
        """


class LocalPaths(Protocol):
    """The store of this machine."""

    @property
    def store_dir(self) -> StoreDir:
        """The store directory, as references have it."""

    async def closure(self, roots: Collection[StorePath]) -> Closure:
        """`roots` and all that they refer to.

        Raises:
            StorePathChanged: one is not valid.
            DaemonError: the store cannot tell.
        """

    def keeping(self, infos: Iterable[PathInfo]) -> AbstractAsyncContextManager[None]:
        """Keep these paths from being collected while the context lasts, as far as the store can.

        Raises:
            DaemonError: the store cannot be asked.
        """

    def nar(self, info: PathInfo) -> Iterator[bytes | memoryview]:
        """The NAR of a path, each portion good until the next is drawn. It reads files: a thread draws it.

        Raises:
            StorePathChanged: its files are not those of the path.
            StorageError: they cannot be read.
        """
