"""The check that the catalog is not older than the files beside it, as a restored backup or a new one is.

Such a catalog lacks rows of files that are needed: the collector would take these files for garbage.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.collection import Collecting
from harmonia_py.catalog.strays import Strays

_log = logging.getLogger(__name__)

# Between two checks: each of them lists all files and looks up every narinfo in the catalog.
_CHECK_SECONDS: Final = 600.0


class CatalogFit:
    """Keeps collection from starting until the catalog is known to fit the files.

    The check also hands files that no row names to the collector. Such files are left from before the start, so there
    is no further check once the catalog fits.

    Args:
        discard_strays: hands files without a row to the collector, and returns what it found.
        collecting: makes this process the one that collects.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        discard_strays: Callable[[Timestamp], Awaitable[Strays]],
        collecting: Collecting,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._discard_strays = discard_strays
        self._collecting = collecting
        self._clock = clock
        self._fits = False
        self._next_check = 0.0
        self._look_lock = asyncio.Lock()

    @asynccontextmanager
    async def collecting(self, wait_seconds: float) -> AsyncIterator[bool]:
        """As `Collecting`; also False while the catalog does not fit, or is not known to.

        It waits up to `wait_seconds` for a check that another task makes, and then as long for another process that
        collects.

        Raises:
            StorageError: the catalog or the storage cannot tell.
        """
        if not await self.is_fit(wait_seconds):
            yield False
            return
        async with self._collecting(wait_seconds) as is_ours:
            yield is_ours

    async def is_fit(self, wait_seconds: float | None = None) -> bool:
        """Whether the catalog fits the files; checked every ten minutes until it does.

        False as well when another task is still checking after `wait_seconds`; None waits for it.

        Raises:
            StorageError: the catalog or the storage cannot tell.
        """
        if self._fits:
            return True
        try:
            async with asyncio.timeout(wait_seconds):
                await self._look_lock.acquire()
        except TimeoutError:
            return False
        try:
            now = self._clock()
            if not self._fits and now >= self._next_check:
                self._fits = await self._look(Timestamp(int(now)))
                self._next_check = now + _CHECK_SECONDS
            return self._fits
        finally:
            self._look_lock.release()

    async def _look(self, now: Timestamp) -> bool:
        found = await self._discard_strays(now)
        if found.unknown is not None:
            _log.error(
                "%s is the narinfo of a path that the catalog does not have: the catalog is new, or older than the "
                "files. Nothing is collected; stop the server and run `harmonia-py fsck --rebuild`, which takes in "
                "what is there, or `harmonia-py fsck --repair` where such paths are to go",
                found.unknown,
            )
            return False
        if found.files:
            _log.warning(
                "%d files of pushes that were cut short have no row in the catalog, and are deleted", found.files
            )
        return True
