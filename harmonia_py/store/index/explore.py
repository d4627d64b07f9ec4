"""The local store as an `Explorer`: an index of its paths, made again when they change, and walks along references."""

import asyncio
from pathlib import Path
from typing import Any, Final

from harmonia_py.cache.explore import Closure, Matches, PathIndex
from harmonia_py.nix.store_path import StorePath
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.runtime.tasks import SingleFlight
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.index.path_index import StoreIndex
from harmonia_py.store.metadata import StoreMetadata

# People take a page for broken when it takes longer than this; a fact that is not known by then is left out.
PATIENCE_SECONDS: Final = 1.5
# A system's closure has some thousand paths, the largest of a build farm some ten thousand.
MAX_CLOSURE_PATHS: Final = 50_000
# A walk asks one question after the other, and so never holds more than one connection to the daemon.
MAX_WALKS: Final = 2
WALK_SECONDS: Final = 120.0
# Two numbers each. A closure never changes while its path is valid.
MAX_KNOWN_CLOSURES: Final = 10_000
# The index of a large store takes a second to make; while paths come and go, that much time in twenty is spent on it.
_REST: Final = 20.0
_MIN_REST_SECONDS: Final = 1.0


class StoreExplorer:
    """An `Explorer` over what `metadata` knows.

    Args:
        metadata: is asked which paths are valid and what they refer to; the caller closes it.
        real_store: the directory with the files.
    """

    def __init__(self, metadata: StoreMetadata, real_store: Path) -> None:
        self._metadata = metadata
        self._index = StoreIndex(
            metadata, real_store, Threads(Pool.EXPLORE), PathIndex, rest=_REST, min_rest=_MIN_REST_SECONDS
        )
        self._closures: Bounded[StorePath, Closure] = Bounded(MAX_KNOWN_CLOSURES)
        self._walks: SingleFlight[StorePath, Closure] = SingleFlight()

    async def aclose(self) -> None:
        """End the walks and the update that are under way, and the thread."""
        await self._walks.aclose()
        await self._index.aclose()

    async def count(self) -> int | None:
        """The number of valid paths; None when the index is not made in time."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return (await self._current_index()).count
        except TimeoutError:
            return None

    async def search(self, query: str, limit: int) -> Matches:
        """Look into the index, which the first search waits for."""
        index = await self._current_index()
        return await self._index.threads.run(index.search, query, limit)

    async def referrers(self, store_path: StorePath) -> tuple[StorePath, ...]:
        """The other paths that refer to `store_path`, by name."""
        paths = await self._metadata.referrers(store_path)
        return tuple(sorted({*paths} - {store_path}, key=lambda path: (path.name, path)))

    async def closure(self, store_path: StorePath) -> Closure | None:
        """Walk along the references, once for all callers that ask meanwhile; None when that takes too long."""
        known = self._closures.get(store_path)
        if known is not None:
            self._closures.move_to_end(store_path)
            return known
        if self._walks.get(store_path) is None and len(self._walks) >= MAX_WALKS:
            return None
        walk = self._walks.begin(store_path, lambda: self._walk(store_path))
        return await walk if await self._is_done(walk) else None

    async def _walk(self, store_path: StorePath) -> Closure:
        seen, waiting, nar_size, complete = {store_path}, [store_path], 0, True
        try:
            async with asyncio.timeout(WALK_SECONDS):
                while waiting:
                    info = await self._metadata.path_info(waiting.pop().hash_part)
                    if info is None:  # it is being collected
                        complete = False
                        continue
                    nar_size += info.nar_size
                    new = [path for path in info.references if path not in seen]
                    if len(seen) + len(new) > MAX_CLOSURE_PATHS:
                        complete = False
                        continue
                    seen.update(new)
                    waiting += new
        except TimeoutError:
            complete = False
        closure = self._closures[store_path] = Closure(len(seen) - len(waiting), nar_size, complete)
        return closure

    async def _current_index(self) -> PathIndex:
        """The index, made again when the store has changed and the last time is long enough ago."""
        updating = self._index.update()
        if updating is not None and (self._index.made is None or await self._is_done(updating)):
            await asyncio.shield(updating)
        assert self._index.made is not None
        return self._index.made

    async def _is_done(self, task: asyncio.Task[Any]) -> bool:
        done, _ = await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        return bool(done)
