"""Closures of paths of the local store, and their NARs, for what sends them elsewhere."""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from harmonia_py.cache.source import Pause
from harmonia_py.contents.pieces import portions
from harmonia_py.errors import DaemonError, StorePathChanged
from harmonia_py.nix.closure import references_first, roots_of
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.runtime.side_by_side import side_by_side
from harmonia_py.store.closure_query import ClosureRows
from harmonia_py.store.daemon.temp_roots import TempRoots
from harmonia_py.store.files.dump import dump, layout_of
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.sqlite import SqliteStore

# Connections to the daemon, each a process of it: more would wait for a core.
_ASKED_AT_ONCE: Final = 4
# Of a NAR that is compressed: less than a job of zstd's, and eight of them fit the memory that a push may take.
_BUFFER_BYTES: Final = 256 * 1024


class FoundPaths:
    """A closure whose paths were asked for one by one.

    Args:
        found: the path infos of all of them.

    Attributes:
        sizes: the bytes of the NAR of each path.
    """

    def __init__(self, found: Mapping[StorePath, PathInfo]) -> None:
        self.sizes: Mapping[StorePath, int] = {path: info.nar_size for path, info in found.items()}
        self._found = found

    def infos(self, wanted: Collection[StorePath]) -> Sequence[PathInfo]:
        """As in `Closure`."""
        these = frozenset(wanted)
        return [info for info in references_first(self._found) if info.store_path in these]


class StoreClosures:
    """The paths of a local store, which has a daemon, a database that can be read, or both.

    Args:
        store_dir: the logical store directory.
        real_store: the directory with the files.

    Attributes:
        daemon: is asked which paths are valid, path by path; None where there is none.
        database: tells a closure by one question; None where this user may not read it.
        roots: keep paths from being collected; None where no daemon does.
    """

    def __init__(self, *, store_dir: StoreDir, real_store: Path) -> None:
        self.store_dir = store_dir
        self.daemon: StoreMetadata | None = None
        self.database: SqliteStore | None = None
        self.roots: TempRoots | None = None
        self._real_store = str(real_store)

    async def closure(self, roots: Collection[StorePath]) -> "ClosureRows | FoundPaths":
        """`roots` and all that they refer to.

        Raises:
            StorePathChanged: one is not valid.
            DaemonError: the store cannot tell.
        """
        if self.database is not None:
            try:
                found = await self.database.closure(roots)
            except DaemonError:
                # A log that only the daemon may open, as up to Nix 2.21.
                if self.daemon is None:
                    raise
            else:
                if self.daemon is None or found.sizes.keys() >= set(roots):
                    self._check(roots, found.sizes)
                    return found
        assert self.daemon is not None, "one of them is there"
        return FoundPaths(await self._ask_daemon(self.daemon, roots))

    async def _ask_daemon(self, daemon: StoreMetadata, roots: Collection[StorePath]) -> Mapping[StorePath, PathInfo]:
        found: dict[StorePath, PathInfo] = {}
        seen = set(roots)
        level: Collection[StorePath] = sorted(seen)
        while level:
            found |= await self._path_infos(daemon, level)
            self._check(level, found)
            following = {reference for path in level for reference in found[path].references} - seen
            seen |= following
            level = sorted(following)
        return found

    async def _path_infos(self, daemon: StoreMetadata, paths: Collection[StorePath]) -> dict[StorePath, PathInfo]:
        found: dict[StorePath, PathInfo] = {}

        async def ask(path: StorePath) -> None:
            info = await daemon.path_info(path.hash_part)
            if info is not None and info.store_path == path:
                found[path] = info

        await side_by_side(ask, paths, at_once=_ASKED_AT_ONCE)
        return found

    def _check(self, paths: Collection[StorePath], found: Mapping[StorePath, object]) -> None:
        for path in paths:
            if path not in found:
                raise StorePathChanged(f"{self.store_dir.join(path)} is not valid: it is not in the store")

    @asynccontextmanager
    async def keeping(self, infos: Iterable[PathInfo]) -> AsyncIterator[None]:
        """Keep these paths from being collected while the context lasts.

        One that has gone by now is not kept; its NAR cannot be read, and that says so.

        Raises:
            DaemonError: the daemon cannot be asked.
        """
        with ExitStack() as stack:
            if self.roots is not None:
                # What they refer to is kept with them.
                for path in roots_of(infos):
                    release = await self.roots.acquire(path)
                    if release is not None:
                        stack.callback(release)
            yield

    def nar(self, info: PathInfo) -> Iterator[bytes | memoryview]:
        """The NAR of a path, read from its files, each portion good until the next is drawn.

        Raises:
            StorePathChanged: its files are not those of the path.
            StorageError: they cannot be read.
        """
        path = f"{self._real_store}/{info.store_path}"
        layout = layout_of(path)
        if layout.size != info.nar_size:
            raise StorePathChanged(f"its files make a NAR of {layout.size} bytes, and the store says {info.nar_size}")
        for portion in portions(dump(path, layout), min(layout.size, _BUFFER_BYTES)):
            assert not isinstance(portion, Pause), "the files are whole"
            yield portion
