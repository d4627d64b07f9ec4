"""The places of debug information: an index of `lib/debug/.build-id` over all valid paths.

Source: `src/libstore/binary-cache-store.cc` of Nix (`index-debug-info`). A store path never changes, so each is looked
into once; a worker that is never asked for debug information looks into none.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from harmonia_py.cache.tree import BuildId, DebugFile, Kind
from harmonia_py.errors import StorageError, reason_of
from harmonia_py.nix.store_path import StorePath
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.files.walk import ABSENT, Below
from harmonia_py.store.index.path_index import StoreIndex
from harmonia_py.store.metadata import StoreMetadata

_log = logging.getLogger(__name__)

# Some hundred bytes each. A store with everything that nixpkgs has debug information for stays below.
MAX_DEBUG_FILES: Final = 500_000
# Debuggers wait longer than this, but not much.
PATIENCE_SECONDS: Final = 20.0
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

    def update(self, valid: Iterable[StorePath]) -> Self:
        """Bring the index up to date with the `valid` paths; only unknown ones are looked into."""
        paths = set(valid)
        gone = self._builds.keys() - paths
        for path in gone:
            del self._builds[path]
        if gone:
            self._paths = {build: path for path, builds in self._builds.items() for build in builds}
        # A path that becomes valid again may have other contents, so paths that are gone are forgotten.
        self._seen &= paths
        with Below(self._real_store) as below:
            for path in paths - self._seen:
                self._look_into(below, path)
        return self

    def _look_into(self, below: Below, path: StorePath) -> None:
        try:
            builds = tuple(_builds(below, path.encode()))
        except OSError as error:
            if error.errno not in ABSENT:
                _log.warning("%s cannot be searched for debug information: %s", path, reason_of(error))
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
        metadata: is asked which paths are valid.
        real_store: the directory with the files.
    """

    def __init__(self, metadata: StoreMetadata, real_store: Path) -> None:
        self._metadata = metadata
        self._debug = DebugIndex(str(real_store))
        self._index = StoreIndex(metadata, real_store, Threads(Pool.DEBUGINFO), self._debug.update, rest=_REST)

    async def aclose(self) -> None:
        """End the update that is under way, and the thread."""
        await self._index.aclose()

    async def find(self, build_id: BuildId) -> DebugFile | None:
        """The store path and the NAR that have the debug information of a build; None when no valid path has it.

        Raises:
            StorageError: the index is still being made; it goes on.
        """
        found = await self._find(build_id)
        if found is None and (updating := self._index.update()) is not None:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await asyncio.shield(updating)
            except TimeoutError:
                raise StorageError("the index of debug information is still being made") from None
            found = await self._find(build_id)
        return found

    async def _find(self, build_id: BuildId) -> DebugFile | None:
        store_path = self._debug.find(build_id)
        if store_path is None:
            return None
        info = await self._metadata.path_info(store_path.hash_part)
        if info is None or info.store_path != store_path:
            return None
        # Clients know xz at most.
        return DebugFile(store_path, info.nar_hash, "none")
