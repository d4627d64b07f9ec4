"""The local store as an `Explorer`: an index of its paths, made again when they change, and walks along references."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from harmonia_py.cache.explore import Closure, Found, PathIndex
from harmonia_py.errors import StorageError
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.metadata import StoreMetadata

T = TypeVar("T")

# A person who waits longer than this for a page thinks that it is broken; what is not known by then is left out.
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
# Every path that comes or goes changes the store directory, but perhaps a moment before the database knows.
_MAX_INDEX_SECONDS: Final = 300.0


class StoreExplorer:
    """An `Explorer` over what `metadata` knows.

    Args:
        metadata: belongs to whoever made it.
        real_store: the directory with the files.
        patience: how long, in seconds, an answer may be waited for that is not known yet.
    """

    def __init__(self, metadata: StoreMetadata, real_store: Path, patience: float = PATIENCE_SECONDS) -> None:
        self._metadata = metadata
        self._real_store = real_store
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, "explore")
        self._index: PathIndex | None = None
        self._index_state = 0
        self._index_made = 0.0
        self._rest_until = 0.0
        self._refresh: asyncio.Task[None] | None = None
        self._closures: OrderedDict[StorePath, Closure] = OrderedDict()
        self._walks: dict[StorePath, asyncio.Task[Closure]] = {}

    async def aclose(self) -> None:
        """End what is under way, and the thread."""
        tasks = [*self._walks.values(), *([] if self._refresh is None else [self._refresh])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def count(self) -> int | None:
        """How many paths are valid; None when the index is not made in time."""
        try:
            async with asyncio.timeout(self._patience):
                return (await self._current_index()).count
        except TimeoutError:
            return None

    async def search(self, query: str, limit: int) -> Found:
        """Look into the index, which the first search waits for."""
        index = await self._current_index()
        return await self._in_thread(lambda: index.search(query, limit))

    async def referrers(self, store_path: StorePath) -> tuple[StorePath, ...]:
        """The other paths that refer to `store_path`, by name."""
        paths = await self._metadata.referrers(store_path)
        return tuple(sorted({*paths} - {store_path}, key=lambda path: (path.name, path)))

    async def closure(self, store_path: StorePath) -> Closure | None:
        """Walk along the references, once for all who ask meanwhile; None while that is under way for long."""
        known = self._closures.get(store_path)
        if known is not None:
            self._closures.move_to_end(store_path)
            return known
        walk = self._walks.get(store_path)
        if walk is None:
            if len(self._walks) >= MAX_WALKS:
                return None
            walk = self._walks[store_path] = asyncio.create_task(self._walk(store_path))
            walk.add_done_callback(lambda done: self._walked(store_path, done))
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
        return Closure(len(seen) - len(waiting), nar_size, complete)

    def _walked(self, store_path: StorePath, walk: asyncio.Task[Closure]) -> None:
        del self._walks[store_path]
        # Asking for the exception also tells asyncio that somebody took notice.
        if not walk.cancelled() and walk.exception() is None:
            self._closures[store_path] = walk.result()
            if len(self._closures) > MAX_KNOWN_CLOSURES:
                self._closures.popitem(last=False)

    async def _current_index(self) -> PathIndex:
        """The index, made again when the store has changed and the last time is long enough ago."""
        now = asyncio.get_running_loop().time()
        if self._refresh is None and now >= self._rest_until:
            self._refresh = asyncio.create_task(self._refresh_index())
            self._refresh.add_done_callback(self._refreshed)
        refresh = self._refresh
        if refresh is not None and (self._index is None or await self._is_done(refresh)):
            await asyncio.shield(refresh)
        assert self._index is not None
        return self._index

    async def _refresh_index(self) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        state = await self._in_thread(self._look)
        if self._index is None or state != self._index_state or begun - self._index_made > _MAX_INDEX_SECONDS:
            paths = await self._metadata.all_paths()
            self._index = await self._in_thread(lambda: PathIndex(paths))
            self._index_state, self._index_made = state, begun
        self._rest_until = clock() + max(_MIN_REST_SECONDS, _REST * (clock() - begun))

    def _refreshed(self, refresh: asyncio.Task[None]) -> None:
        self._refresh = None
        if not refresh.cancelled():
            refresh.exception()  # so that asyncio knows that somebody took notice

    async def _is_done(self, task: asyncio.Task[Any]) -> bool:
        done, _ = await asyncio.wait([task], timeout=self._patience)
        return bool(done)

    def _look(self) -> int:
        try:
            return self._real_store.stat().st_mtime_ns
        except OSError as error:
            raise StorageError(f"the store directory cannot be read: {error}") from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
