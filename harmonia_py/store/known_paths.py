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
from time import monotonic
from typing import Final

from harmonia_py.cache.lasting import Lasting, Watch
from harmonia_py.errors import StorageError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.metadata import StoreMetadata

# A path that was collected is known for so long after, at most, in seconds.
CHECK_SECONDS: Final = 1.0
# Signatures are added to a path without a trace in the store directory; they are seen after this time.
KNOWN_SECONDS: Final = 60.0
# About one KiB each.
MAX_KNOWN: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    info: PathInfo
    lasting: Lasting


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
        self._watch = Watch(self._modified, seconds=CHECK_SECONDS, clock=clock)

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none.

        Raises:
            DaemonError: whoever is asked cannot tell.
            StorageError: the store directory is not there.
        """
        # What is deleted while the question is under way counts as deleted after it.
        standing = await self._watch.standing()
        known = self._known.get(hash_part)
        # By what stands, not until when: a disk that takes longer than that to answer has answered all the same.
        if known is not None and standing in known.lasting.standings and known.lasting.expires > self._clock():
            return known.info
        info = await self._metadata.path_info(hash_part)
        self._known.pop(hash_part, None)
        if info is not None:
            self._known[hash_part] = _Known(info, Lasting(self._clock() + KNOWN_SECONDS, (standing,)))
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return info

    def lasting(self, info: PathInfo) -> Lasting | None:
        """How long `info`, which this object gave, is right; None when that is not known any more."""
        known = self._known.get(info.store_path.hash_part)
        # The same object: one that is merely equal may have come from elsewhere.
        return known.lasting if known is not None and known.info is info else None

    async def _modified(self) -> int:
        loop = asyncio.get_running_loop()
        try:
            return (await loop.run_in_executor(self._threads, os.stat, self._real_store)).st_mtime_ns
        except OSError as error:
            raise StorageError(f"the store directory cannot be read: {error}") from error
