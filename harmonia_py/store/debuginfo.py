"""Where the debug information of a build is: an index of `lib/debug/.build-id` over all valid paths.

Source: `src/libstore/binary-cache-store.cc` of Nix (`index-debug-info`). A store path never changes, so each is looked
into once; a worker that nobody asks for debug information looks into none.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

from harmonia_py.cache.tree import BuildId, DebugFile, Kind
from harmonia_py.errors import StorageError
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.walk import ABSENT, Below

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Some hundred bytes each. A store with everything that nixpkgs has debug information for stays below.
MAX_DEBUG_FILES: Final = 500_000
# Debuggers wait longer than this, but not much.
PATIENCE_SECONDS: Final = 20.0
# Every path that comes or goes changes the store directory; this is for the one that did so in the same clock tick.
MAX_INDEX_SECONDS: Final = 300.0
# While paths come and go, at most a tenth of the time is spent on the index.
_REST: Final = 9.0

_PLACE: Final = (b"lib", b"debug", b".build-id")
_FIRST: Final = re.compile(rb"[0-9a-f]{2}")
_REST_OF_NAME: Final = re.compile(rb"([0-9a-f]{38})\.debug")


class DebugIndex:
    """Build ids and the store paths that have their debug information. One thread at a time calls `update`."""

    def __init__(self, real_store: str) -> None:
        self._real_store = real_store
        self._seen: set[StorePath] = set()
        self._builds: dict[StorePath, tuple[bytes, ...]] = {}
        self._paths: dict[bytes, StorePath] = {}

    def find(self, build_id: BuildId) -> StorePath | None:
        """A store path with the debug information of this build."""
        return self._paths.get(bytes.fromhex(build_id))

    def update(self, valid: Iterable[StorePath]) -> None:
        """Let the index be that of the `valid` paths; only those it does not know are looked into."""
        paths = set(valid)
        gone = self._builds.keys() - paths
        for path in gone:
            del self._builds[path]
        if gone:
            self._paths = {build: path for path, builds in self._builds.items() for build in builds}
        # A path that is valid again later may be another one, so what is gone is forgotten.
        self._seen &= paths
        with Below(self._real_store) as below:
            for path in paths - self._seen:
                self._look_into(below, path)

    def _look_into(self, below: Below, path: StorePath) -> None:
        try:
            builds = tuple(_builds(below, path.encode()))
        except OSError as error:
            if error.errno not in ABSENT:
                _log.warning("%s cannot be searched for debug information: %s", path, error)
            builds = ()
        if builds and len(self._paths) + len(builds) > MAX_DEBUG_FILES:
            _log.warning("the debug information of %s is left out: there is too much", path)
        elif builds:
            self._builds[path] = builds
            self._paths |= dict.fromkeys(builds, path)
        self._seen.add(path)


def _builds(below: Below, store_path: bytes) -> Iterator[bytes]:
    """The build ids whose debug information is in the store path, as regular files."""
    place = [store_path, *_PLACE]
    for first in below.entries(place).entries:
        if first.kind is Kind.DIRECTORY and _FIRST.fullmatch(first.name):
            for entry in below.entries([*place, first.name]).entries:
                match = _REST_OF_NAME.fullmatch(entry.name)
                if match is not None and entry.kind is Kind.REGULAR:
                    yield bytes.fromhex((first.name + match[1]).decode())


class StoreDebugFiles:
    """`DebugFiles` of a local store.

    Args:
        metadata: what knows the valid paths.
        real_store: the directory with the files.
        patience: seconds that a question waits for the index.
    """

    def __init__(self, metadata: StoreMetadata, real_store: Path, patience: float = PATIENCE_SECONDS) -> None:
        self._metadata = metadata
        self._real_store = str(real_store)
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, "debuginfo")
        self._index = DebugIndex(self._real_store)
        self._state = 0  # the modification time of the store directory that the index is of
        self._expires = self._rest_until = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """End what is under way, and the thread."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def find(self, build_id: BuildId) -> DebugFile | None:
        """See `DebugFiles`.

        Raises:
            StorageError: the index is still being made; it goes on.
        """
        found = await self._find(build_id)
        if found is None and await self._refresh():
            found = await self._find(build_id)
        return found

    async def _find(self, build_id: BuildId) -> DebugFile | None:
        store_path = self._index.find(build_id)
        if store_path is None:
            return None
        info = await self._metadata.path_info(store_path.hash_part)
        return DebugFile(store_path, info.nar_hash) if info is not None and info.store_path == store_path else None

    async def _refresh(self) -> bool:
        """Bring the index up to date; False when it was."""
        if self._refreshing is None:
            now = monotonic()
            if now < self._rest_until:
                return False
            state = await self._in_thread(self._modified)
            if state == self._state and now < self._expires:
                return False
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._update())
            # Those who wait may all have lost patience when it fails; the next one to ask is told.
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(self._patience):
                await asyncio.shield(self._refreshing)
        except TimeoutError:
            raise StorageError("the index of debug information is still being made") from None
        return True

    async def _update(self) -> None:
        started = monotonic()
        try:
            # Before the paths are asked for: what comes meanwhile is then found the next time.
            state = await self._in_thread(self._modified)
            paths = await self._metadata.all_paths()
            await self._in_thread(lambda: self._index.update(paths))
            now = monotonic()
            self._state = state
            self._expires = started + MAX_INDEX_SECONDS
            self._rest_until = now + _REST * (now - started)
        finally:
            self._refreshing = None

    def _modified(self) -> int:
        try:
            return Path(self._real_store).stat().st_mtime_ns
        except OSError as error:
            raise StorageError(f"the store directory cannot be read: {error}") from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
