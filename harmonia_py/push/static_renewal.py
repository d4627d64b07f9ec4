"""Static narinfos signed anew, after a key of a cache was made, rotated or retired.

Each static narinfo notes in its metadata which keys have signed it. The first one of a cache is written last: while
that is right, so are all, also after a process was killed in between.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import CacheRow, Caches
from harmonia_py.catalog.objects import ObjectIndex
from harmonia_py.catalog.paging import pages_of, rows_of
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.static_side import StaticSide, StaticSideOf

_log = logging.getLogger(__name__)

# A number is compared; only when it has changed, each cache is looked at.
_SECONDS: Final = 2.0


class StaticRenewal(Struct, eq=False):
    """Renews the narinfos of all caches; one process of all that share a directory runs it.

    Attributes:
        caches: the named caches.
        index: their objects.
        side_of: finds the static side of a cache.
        state: a value that is another one after keys may have changed.
    """

    caches: Caches
    index: ObjectIndex
    side_of: StaticSideOf
    state: Callable[[], object]
    _seen: object = None

    async def run(self) -> None:
        """Look every two seconds, until the caller cancels it."""
        while True:
            try:
                await self.look()
            except HarmoniaError as error:
                _log.warning("narinfos of the static side are still signed by other keys: %s", error)
            await asyncio.sleep(_SECONDS)

    async def look(self) -> None:
        """If keys may have changed, write the narinfos that the present ones have not signed.

        Raises:
            HarmoniaError: something cannot be read or written; the next look goes on.
        """
        state = self.state()
        if state == self._seen:
            return
        async for row in rows_of(self.caches.page, lambda row: row.name):
            await self._renew(row)
        self._seen = state

    async def _renew(self, row: CacheRow) -> None:
        side = await self.side_of(row.name)
        if side is None:
            return
        first: HashPart | None = None
        async for objects in pages_of(partial(self.index.page, row.id), lambda stored: stored.hash_part):
            hash_parts = [stored.hash_part for stored in objects]
            if first is None:
                if await side.is_signed(objects[0]):
                    return
                first = hash_parts.pop(0)
            await _renew(side, hash_parts)
        if first is not None:
            await _renew(side, [first])


async def _renew(side: StaticSide, hash_parts: Sequence[HashPart]) -> None:
    for place in (await side.write(hash_parts, is_renewal=True)).values():
        if isinstance(place, HarmoniaError):
            raise place
