"""Whether there is room for a file that is pushed; the collector is told how much is wanted where there is none."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, CacheRow
from harmonia_py.catalog.objects import Sizes
from harmonia_py.errors import PushTooLarge, QuotaExceeded, StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.push.ports import PushPorts

# What other workers took in within this time is not seen; to measure a cache of a million paths takes 0.1 s.
_SIZE_SECONDS: Final = 1
# Close to its limit a cache is measured for each file.
_CLOSE: Final = 0.9
# How far pushes may go beyond a limit while the collector makes room, or when all is pinned. The rest of the 5 % that
# are promised is for files that other workers take in at this moment, which are not seen here, and for those that
# killed workers had just entered: with 3 %, an hour of kills ended at 1.059.
_OVERFLOW: Final = 0.02
_MINUTE: Final = 60
_HOUR: Final = 3600


class _Limit(Struct, frozen=True):
    """A limit of one cache, or of all together.

    Attributes:
        what: is limited, in words.
        cache: that is limited; None: all together.
        max_size: bytes of its files.
    """

    what: str
    cache: CacheId | None
    max_size: int


class RoomForPushes(Struct, eq=False):
    """The room for files that are pushed to one cache.

    Attributes:
        cache: as the catalog has it.
        ports: is told of files that find no room, and tells which files killed processes have left behind.
        sizes: tells the sizes of caches.
        max_size_of_all: bytes that the files of all caches may take together; None for no limit.
    """

    cache: CacheRow
    ports: PushPorts
    sizes: Sizes
    max_size_of_all: Callable[[], int | None]
    _arriving: int = 0
    # The sizes of this cache and of all together, each with the time until which it is believed.
    _known: dict[CacheId | None, tuple[int, int]] = {}

    async def check(self, file_size: int, file_hash: Hash | None = None, *, here: int = 0) -> None:
        """Return if there is room for a file of this size; if not, have the collector make as much.

        Args:
            file_size: of the file.
            file_hash: of the file, where it is known: one that a killed process has left behind has its room already.
            here: bytes of the file that have come in parts, and are counted already.

        Raises:
            PushTooLarge: the file is larger than the limit.
            QuotaExceeded: there is no room now.
            StorageError: the catalog cannot tell.
        """
        most = self.cache.settings.max_nar_size
        if most is not None and file_size > most:
            raise PushTooLarge(f"this is {file_size} bytes, and {most} are taken at the most")
        limits = self._limits()
        for limit in limits:
            if file_size > limit.max_size:
                raise PushTooLarge(f"this is {file_size} bytes, and {limit.what} has room for {limit.max_size}")
        to_come = max(0, file_size - here)
        if here:
            self._known.clear()  # its parts came without a word to this object
        for limit in limits:
            if not await self._fits(limit, to_come) and not await self._was_left_behind(file_hash, file_size):
                await self._want(limit, to_come)
                grace = "its grace" if limit.cache is None else f"its grace of {_in_words(self.cache.settings.grace)}"
                raise QuotaExceeded(
                    f"{limit.what} is full: room for these {file_size} bytes is being made, and what goes for it keeps "
                    f"{grace}; push again after that"
                )

    async def has(self, size: int) -> bool:
        """Whether there is room for so many bytes, perhaps of several files, now; none is made.

        Raises:
            StorageError: the catalog cannot tell.
        """
        return all([await self._fits(limit, size) for limit in self._limits()])

    @contextmanager
    def arriving(self, file_size: int) -> Iterator[None]:
        """A context in which a file of this size arrives, whose room no other file gets."""
        self._arriving += file_size
        try:
            yield
        finally:
            self._arriving -= file_size

    async def came(self, file_size: int, checked: int | None = None) -> None:
        """Note that a file of this size has come: room for it need not be made any more.

        Args:
            file_size: of the file.
            checked: the size that was given to `check`, where it was another one.
        """
        self._known = {cache: (size + file_size, until) for cache, (size, until) in self._known.items()}
        with suppress(StorageError):  # the file is here; the room is held for some time more
            for limit in self._limits():
                await self._settle(limit, checked or file_size)

    def _limits(self) -> Sequence[_Limit]:
        of_cache, of_all = self.cache.settings.max_size, self.max_size_of_all()
        limits = []
        if of_cache is not None:
            limits.append(_Limit(f"the cache {self.cache.name}", self.cache.id, of_cache))
        if of_all is not None:
            limits.append(_Limit("the storage of all caches", None, of_all))
        return limits

    async def _fits(self, limit: _Limit, file_size: int) -> bool:
        now, most = self.ports.now(), limit.max_size
        size, until = self._known.get(limit.cache, (0, 0))
        if now >= until or size + self._arriving + file_size > most * _CLOSE:
            known = await self.sizes.size(limit.cache)
            size = known.stored_size + known.incoming_size
            self._known[limit.cache] = (size, now + _SIZE_SECONDS)
        return size + self._arriving + file_size <= most * (1 + _OVERFLOW)

    async def _was_left_behind(self, file_hash: Hash | None, file_size: int) -> bool:
        return file_hash is not None and await self.ports.arrivals.is_counted(self.cache.id, file_hash, file_size)

    async def _want(self, limit: _Limit, file_size: int) -> None:
        now = self.ports.now()
        # Not written when it is known: a client may come again and again.
        wanted = await self.ports.room_wanted.wanted(limit.cache, now=now)
        if wanted > limit.max_size:
            # The limit was larger when that file was refused: no room is made for it any more, so that this one has it.
            await self.ports.room_wanted.settle(limit.cache, wanted)
            wanted = 0
        if wanted < file_size:
            await self.ports.room_wanted.want(limit.cache, file_size, now=now)

    async def _settle(self, limit: _Limit, file_size: int) -> None:
        # While the collector keeps up, a file as small as this is never refused: nothing was noted for it.
        if file_size <= limit.max_size * _OVERFLOW:
            return
        if 0 < await self.ports.room_wanted.wanted(limit.cache, now=self.ports.now()) <= file_size:
            await self.ports.room_wanted.settle(limit.cache, file_size)


def _in_words(seconds: int) -> str:
    return f"{-(-seconds // _MINUTE)} minutes" if seconds <= 2 * _HOUR else f"{-(-seconds // _HOUR)} hours"
