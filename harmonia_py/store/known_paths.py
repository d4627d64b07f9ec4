"""Path infos that need not be asked for again, because nothing has left the store since.

Whatever deletes a store path removes an entry from the store directory, which changes the directory's modification
time. So one `stat` a second tells whether everything known is still there; what a daemon would answer in a hundred
microseconds is then a look into a dictionary.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from time import monotonic, time_ns
from typing import Final

from harmonia_py.errors import StorageError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.metadata import StoreMetadata

# A path that was collected is known for so long after, at most, in seconds.
CHECK_SECONDS: Final = 1.0
# Signatures are added to a path without a trace in the store directory; they are seen after this time.
KNOWN_SECONDS: Final = 60.0
# The kernel's clock for files ticks every few milliseconds: what changes twice within one tick shows one change.
_TICK_SECONDS: Final = 0.1
# About one KiB each.
MAX_KNOWN: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    info: PathInfo
    generation: int
    expires: float


class KnownPaths:
    """Asks `metadata` for path infos, and remembers them.

    Args:
        metadata: what knows the valid paths.
        real_store: the directory with the files.
        threads: where the `stat` may wait for the disk.
        clock: seconds that only grow.
    """

    def __init__(
        self, metadata: StoreMetadata, real_store: str, threads: Executor, clock: Callable[[], float] = monotonic
    ) -> None:
        self._metadata = metadata
        self._real_store = real_store
        self._threads = threads
        self._clock = clock
        self._known: OrderedDict[HashPart, _Known] = OrderedDict()
        self._generation = 0
        self._check_at = 0.0

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none.

        Raises:
            DaemonError: whoever is asked cannot tell.
            StorageError: the store directory is not there.
        """
        if self._clock() >= self._check_at:
            self._generation = await self._modified()
            self._check_at = self._clock() + CHECK_SECONDS
        known = self._known.get(hash_part)
        if known is not None and known.generation == self._generation and known.expires > self._clock():
            return known.info
        # What is deleted while the question is under way counts as deleted after it.
        generation = self._generation
        info = await self._metadata.path_info(hash_part)
        self._known.pop(hash_part, None)
        if info is not None:
            self._known[hash_part] = _Known(info, generation, self._clock() + KNOWN_SECONDS)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return info

    async def _modified(self) -> int:
        loop = asyncio.get_running_loop()
        try:
            modified = (await loop.run_in_executor(self._threads, os.stat, self._real_store)).st_mtime_ns
        except OSError as error:
            raise StorageError(f"the store directory cannot be read: {error}") from error
        # Of a change just now nobody can tell whether it was the last of its tick, so what follows is no generation.
        return modified if abs(time_ns() - modified) > _TICK_SECONDS * 1e9 else -time_ns()
