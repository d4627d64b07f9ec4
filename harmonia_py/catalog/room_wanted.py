"""The port `RoomWanted`: the sizes of files that were refused for want of room, which is made until they come again."""

from typing import Final, Protocol

from harmonia_py.catalog.caches import CacheId, Timestamp

WANTED_SECONDS: Final = 2 * 86_400
"""How long room is made and held for a file that was refused: within two days the leases of yesterday's pushes end, and
a build that runs each night has pushed the file again."""


class RoomWanted(Protocol):
    """Wanted sizes, of a cache or (None) of all together. Each method raises `StorageError`."""

    async def want(self, cache: CacheId | None, size: int, *, now: Timestamp) -> None:
        """Note that a file of this size found no room. Of several wanted sizes the largest counts."""

    async def wanted(self, cache: CacheId | None, *, now: Timestamp) -> int:
        """The bytes of the largest file that found no room; 0 when there is none."""

    async def settle(self, cache: CacheId | None, size: int) -> None:
        """Note that a file of this size has found room: none is wanted any more for it or for a smaller one."""
