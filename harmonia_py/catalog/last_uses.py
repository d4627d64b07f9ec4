"""When objects were last asked for: noted in memory and written to the catalog now and then, so that no read waits."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp, time_by
from harmonia_py.catalog.objects import Objects
from harmonia_py.errors import StorageError
from harmonia_py.nix.store_path import HashPart

_log = logging.getLogger(__name__)

_FLUSH_SECONDS: Final = 60.0
# Objects beyond so many in one minute are not noted: those that are in use are asked for again.
_MOST: Final = 65_536


class LastUses:
    """The last uses that one process has seen.

    Args:
        objects: is told of them.
        clock: seconds since the epoch.
    """

    def __init__(self, objects: Objects, clock: Callable[[], float] = time.time) -> None:
        self._objects = objects
        self._clock = clock
        self._uses: dict[tuple[CacheId, HashPart], Timestamp] = {}

    def note(self, cache: CacheId, hash_part: HashPart) -> None:
        """Note that an object was asked for just now."""
        if len(self._uses) < _MOST or (cache, hash_part) in self._uses:
            self._uses[cache, hash_part] = time_by(self._clock)

    async def flush(self) -> None:
        """Write the noted uses to the catalog. Those that it cannot take now are written the next time.

        Raises:
            StorageError: the catalog cannot take them.
        """
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await self._objects.used(uses)
        except BaseException:
            self._uses = uses | self._uses
            raise

    async def run(self) -> None:
        """Flush for ever, and once more when cancelled."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_SECONDS)
                await self._try_to_flush()
        finally:
            await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        try:
            await self.flush()
        except StorageError as error:
            _log.warning("when files were last used is not written down for now: %s", error)
