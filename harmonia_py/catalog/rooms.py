"""The limits of `[storage]`: over everything that one process looks after, in all directories and catalogs together.

Compressed, mirrored and pushed files each have their own housekeeping and, perhaps, limits of their own. Over all of
them the longest unused goes first, wherever it is. What counts is what the storage has: for files in chunks, the packs.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import MIRROR, STORE, CacheSettings, Timestamp, time_by
from harmonia_py.catalog.collection import Collected, Collecting, Scope
from harmonia_py.catalog.collector import Collector, make_room
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.objects import Size, Sizes
from harmonia_py.catalog.packs import KeptPacks
from harmonia_py.catalog.quota import Limits, excess
from harmonia_py.catalog.room_wanted import RoomWanted
from harmonia_py.errors import StorageError
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 10.0
"""Between two looks whether there is room. Free space is cheap to ask for; other programs fill the disk as well."""
WAIT_SECONDS: Final = 15.0
"""How long a look waits for another process that collects. A pass of the job that makes chunks takes as long, and the
pause between two passes may be a second."""
ROUNDS: Final = 8
"""What goes frees few bytes where many paths share chunks, so room is made in rounds. The next look goes on."""

_REPLACEABLE: Final = tuple(
    Scope(cache=cache, settings=CacheSettings(grace=0), deleted=False) for cache in (STORE, MIRROR)
)


async def replaceable() -> Sequence[Scope]:
    """The caches of replaceable files, which were compressed here or mirrored: these go without grace."""
    return _REPLACEABLE


BUCKET: Final = -1
"""The device number that stands for a bucket, among those of file systems."""


async def no_end_of_room() -> int:
    """The free bytes of a bucket: as many as can be, since it has no end."""
    return sys.maxsize


class Room(Struct, frozen=True, kw_only=True, eq=False):
    """A directory of kept files, with its catalog.

    Attributes:
        collector: condemns, removes and deletes.
        scopes: the caches that are in it.
        sizes: tells the sizes of caches.
        uses: last uses that this process has not written to the catalog yet.
        collecting: makes this process the one that collects.
        free_bytes: asks how much room its file system has.
        device: the number of that file system.
        packs: of its files in chunks.
        wanted: tells which files found no room; None where none is ever refused.
    """

    collector: Collector
    scopes: Callable[[], Awaitable[Sequence[Scope]]]
    sizes: Sizes
    uses: LastUses
    collecting: Collecting
    free_bytes: Callable[[], Awaitable[int]]
    device: int
    packs: KeptPacks
    wanted: RoomWanted | None = None

    async def empty_garbage(self, now: Timestamp) -> Collected:
        """Delete what no row names."""
        done = await self.collector.empty_garbage(now)
        self.packs.note_deleted(now)
        return done


class Rooms:
    """The directories of one process, held to common limits.

    Args:
        clock: seconds since the epoch.
        seconds: between two looks.

    Attributes:
        limits: a reload replaces them.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, seconds: float = CHECK_SECONDS) -> None:
        self.limits = Limits()
        self._clock = clock
        self._seconds = seconds
        self._rooms: list[Room] = []
        self._warning = RareWarning(_log)

    def add(self, room: Room) -> Callable[[], None]:
        """Look after `room` from now on; the returned function ends that."""
        self._rooms.append(room)
        return lambda: self._rooms.remove(room)

    async def run(self) -> None:
        """Look every `seconds`, until the caller cancels it."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.look(WAIT_SECONDS)
            except StorageError as error:
                _log.warning("cannot hold what is kept to the limits of [storage]: %s", error)

    async def look(self, wait_seconds: float = 0.0) -> Collected:
        """Make room where there is not enough.

        Nothing is done when another process collects in one of the rooms for longer than `wait_seconds`.

        Raises:
            StorageError: a catalog or a file system cannot tell.
        """
        if not await self._is_too_much(time_by(self._clock)):
            return Collected()
        rooms = tuple(self._rooms)
        async with AsyncExitStack() as locks:
            for room in rooms:
                if not await locks.enter_async_context(room.collecting(wait_seconds)):
                    return Collected()
            # A room that left while the others were waited for is looked after by nothing here any more.
            ours, now = [room for room in rooms if room in self._rooms], time_by(self._clock)
            done = Collected()
            for limited, limits in self._limited(ours):
                done += await self._hold(limited, limits, now)
            return done

    def _limited(self, rooms: Sequence[Room]) -> list[tuple[Sequence[Room], Limits]]:
        """The limits, each with the rooms that it holds for: all of them, or those on one file system."""
        limited: list[tuple[Sequence[Room], Limits]] = []
        if self.limits.max_size is not None:
            limited.append((rooms, Limits(max_size=self.limits.max_size)))
        if self.limits.min_free > 0:
            by_device: dict[int, list[Room]] = {}
            for room in rooms:
                by_device.setdefault(room.device, []).append(room)
            limited += [(there, Limits(min_free=self.limits.min_free)) for there in by_device.values()]
        return [(these, limits) for these, limits in limited if these]

    async def _is_too_much(self, now: Timestamp) -> bool:
        """Whether room must be made. Most looks end here, without the lock of the collector."""
        for rooms, limits in self._limited(tuple(self._rooms)):
            if await _too_much(rooms, limits, now) > 0:
                return True
        return False

    async def _hold(self, rooms: Sequence[Room], limits: Limits, now: Timestamp) -> Collected:
        """Hold rooms to limits. With `min_free` in the limits, all rooms are on the same file system."""
        done = Collected()
        for _ in range(ROUNDS):
            too_much = await _too_much(rooms, limits, now)
            if too_much <= 0:
                break
            # First: what has gone frees nothing of packs before these are written anew.
            if await self._collect_packs(rooms):
                continue
            objects, removed = await self._condemn(rooms, too_much, now), await self._remove(rooms, now)
            done += removed
            if not (objects or removed.removed) or not await _has_packs(rooms):
                break
        return done

    async def _collect_packs(self, rooms: Sequence[Room]) -> bool:
        """Collect packs, and delete those that nothing used; returns whether that has made room, or may."""
        may_have_more = False
        for room in rooms:
            if (await room.sizes.size(None)).pack_size:
                try:
                    may_have_more |= await room.packs.collect()
                except StorageError as error:
                    self._warning.say("cannot write packs anew: %s", error)
                await room.empty_garbage(time_by(self._clock))
        return may_have_more

    async def _condemn(self, rooms: Sequence[Room], too_much: int, now: Timestamp) -> int:
        """Condemn the longest unused; returns how many objects."""
        sides: list[tuple[Collector, Scope]] = []
        for room in rooms:
            # Objects that were asked for just now must not be among the longest unused.
            await room.uses.flush()
            sides += [(room.collector, scope) for scope in await room.scopes()]
        objects, bytes_ = await make_room(sides, too_much, now)
        if objects:
            _log.info("[storage]: %d bytes too much; %d paths, %d bytes, are to go", too_much, objects, bytes_)
        return objects

    async def _remove(self, rooms: Sequence[Room], now: Timestamp) -> Collected:
        """Remove objects whose grace is over, and delete garbage."""
        done = Collected()
        for room in rooms:
            for scope in await room.scopes():
                done += await room.collector.remove(scope, Timestamp(now - scope.settings.grace), now)
            done += await room.empty_garbage(now)
        return done


async def _has_packs(rooms: Sequence[Room]) -> bool:
    return any([(await room.sizes.size(None)).pack_size for room in rooms])


async def _too_much(rooms: Sequence[Room], limits: Limits, now: Timestamp) -> int:
    """Bytes still to condemn: those beyond the limits, or in the way of a file that found no room."""
    size = condemned = leaving = wanted = 0
    for room in rooms:
        known = await room.sizes.size(None)
        size, condemned = size + known.stored_size, condemned + await _will_go(room, known)
        leaving += (await room.packs.size()).leaving
        if room.wanted is not None and limits.max_size is not None:
            wanted = max(wanted, await room.wanted.wanted(None, now=now))
    free = await rooms[0].free_bytes() + leaving + condemned
    return excess(size - condemned, limits, free, wanted=wanted)


async def _will_go(room: Room, size: Size) -> int:
    """The bytes that go with condemned objects; those of files in chunks take their share of the packs, on average."""
    if not size.condemned_size or not size.chunked_size:
        return size.condemned_size
    in_chunks = await room.packs.condemned()
    return size.condemned_size - in_chunks + in_chunks * size.pack_size // size.chunked_size
