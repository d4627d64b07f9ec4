"""Writes static narinfos a moment after their paths were published: no client waits for them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Final, Self

from harmonia_py.catalog.caches import CacheId
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.static_side import StaticSide
from harmonia_py.runtime.tasks import end_task

_log = logging.getLogger(__name__)

# Up to so many narinfos that are wanted within this time are written together.
_TOGETHER: Final = 128
_GATHER_SECONDS: Final = 0.25
# A disk that cannot keep up holds pushes back before this takes much memory.
_MAX_WAITING: Final = 4096
# Narinfos that are left at a shutdown are written within this time, or by `fsck`.
_END_SECONDS: Final = 10.0


class StaticWriter:
    """Writes the static narinfos of all caches in the background; those that are wanted are written when it ends.

    Narinfos of the same moment are written together, with one wait for the disk, so that pushes are hardly disturbed.

    Args:
        later: notes a narinfo that cannot be written now, for the collector to write later.
    """

    def __init__(self, later: Callable[[CacheId, HashPart], Awaitable[object]]) -> None:
        self._later = later
        self._queue: asyncio.Queue[tuple[StaticSide, HashPart]] = asyncio.Queue(_MAX_WAITING)
        self._hurry = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self.written()
        except TimeoutError:
            _log.warning("%s narinfos of the static side are not written", self._queue.qsize())
        await end_task(self._writer)

    async def want(self, side: StaticSide, hash_part: HashPart) -> None:
        """Have a narinfo written; the call waits only while very many are."""
        await self._queue.put((side, hash_part))

    async def written(self) -> None:
        """Write all that is wanted at once, and wait for it."""
        self._hurry.set()
        try:
            await self._queue.join()
        finally:
            self._hurry.clear()

    async def _write(self) -> None:
        while True:
            wanted = [await self._queue.get()]
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _GATHER_SECONDS)
            while len(wanted) < _TOGETHER and not self._queue.empty():
                wanted.append(self._queue.get_nowait())
            by_side: dict[StaticSide, set[HashPart]] = {}
            for side, hash_part in wanted:
                by_side.setdefault(side, set()).add(hash_part)
            await asyncio.gather(*(self._write_to(side, hash_parts) for side, hash_parts in by_side.items()))
            for _ in wanted:
                self._queue.task_done()

    async def _write_to(self, side: StaticSide, hash_parts: Collection[HashPart]) -> None:
        places: Mapping[HashPart, BlobKey | HarmoniaError] = {}
        try:
            places = await side.write(hash_parts)
        except HarmoniaError as error:
            places = dict.fromkeys(hash_parts, error)
        except Exception:  # noqa: BLE001  # whatever it is
            # Without this task the queue would fill, and every push wait for ever: no error ends it.
            _log.exception("a static narinfo is not written")
        for hash_part, place in places.items():
            if isinstance(place, HarmoniaError):
                _log.warning("the static narinfo of %s is not written for now: %s", hash_part, place)
                with suppress(HarmoniaError):  # `fsck` finds it
                    await self._later(side.cache, hash_part)
