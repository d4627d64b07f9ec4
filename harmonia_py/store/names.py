"""A filter for hash parts that no name in the store directory has: such a path is not valid, and needs no question.

Most of what clients ask a cache for is absent, and is asked for once: a question to the nix-daemon for each is nine
tenths of the work. The names are known from one look at the whole directory; after that the kernel tells what comes
(`inotify`), before the answer to any request that could depend on it. It does not tell of everything on every file
system, so the directory's modification time is held against it, and when names have come that the kernel did not tell
of, the directory is looked at again.

Names that go are not followed: for a path whose name has gone the store is asked, as before.
"""

import asyncio
import math
import os
from array import array
from collections.abc import Iterable
from itertools import islice
from operator import attrgetter, itemgetter
from pathlib import Path
from time import monotonic
from typing import Final

from harmonia_py.cache.validity import Epoch
from harmonia_py.errors import StorageError, describe_os_error
from harmonia_py.nix.store_path import HASH_PART_LENGTH
from harmonia_py.runtime.threads import Threads
from harmonia_py.store.inotify import NamesLost, NewNames

# A Bloom filter with two probes and so many bits for each name says of 1 absent hash part in 72 that it may be there,
# and of 1 in 270 as long as it has half of the names. It is made for twice as many as there are, and takes 4 MB for a
# million names; as Python's strings they would take 90.
_BITS_A_NAME: Final = 16
_ROOM: Final = 2
_LEAST_BITS: Final = 1 << 16
# A change that is seen this long after the kernel last told of a name was not told of.
_TELLS_SECONDS: Final = 3.0
# Names of a directory that are taken at a time, by functions that are not Python's own. More would take no less time,
# and memory that stays with each worker: 2.4 MB with 4096.
_NAMES_AT_ONCE: Final = 256
_NAME_OF: Final = attrgetter("name")
_HASH_PART_OF: Final = itemgetter(slice(HASH_PART_LENGTH))
# The part of the time that is spent at most on looks at a directory that changes again and again.
_SHARE: Final = 0.05


class NameFilter:
    """Hash parts, of which it can be told that one is not among them, but not that one is.

    Args:
        capacity: for how many it is made; with more it errs more often.
    """

    def __init__(self, capacity: int) -> None:
        bits = max(_LEAST_BITS, 1 << math.ceil(math.log2(max(1, capacity) * _BITS_A_NAME)))
        self.capacity = bits // _BITS_A_NAME
        self.count = 0
        self._bits = bytearray(bits // 8)
        self._mask = bits - 1

    def add(self, hash_parts: Iterable[bytes]) -> None:
        """Put `hash_parts` among them."""
        self.add_hashes(array("q", map(hash, hash_parts)))

    def add_hashes(self, numbers: "array[int]") -> None:
        """Put those among them that have these hashes, as `hash` gives them."""
        bits, mask = self._bits, self._mask
        # One statement a probe, for a million names: a call for each name took as long as all else.
        for number in numbers:
            probe = number & mask
            bits[probe >> 3] |= 1 << (probe & 7)
            probe = (number >> 32) & mask
            bits[probe >> 3] |= 1 << (probe & 7)
        self.count += len(numbers)

    def lacks(self, hash_part: bytes) -> bool:
        """Whether `hash_part` is not among them; False says nothing."""
        bits, mask, number = self._bits, self._mask, hash(hash_part)
        probe = number & mask
        if not bits[probe >> 3] >> (probe & 7) & 1:
            return True
        probe = (number >> 32) & mask
        return not bits[probe >> 3] >> (probe & 7) & 1


class StoreNames:
    """The names in the store directory, as one worker knows them. It is used by the event loop's thread alone.

    Args:
        directory: with the files of the store.
        threads: where looking at the directory waits for the disk.
    """

    def __init__(self, directory: str, threads: Threads) -> None:
        self._directory = directory
        self._threads = threads
        self._filter: NameFilter | None = None
        self._told: NewNames | None = None
        self._told_at = -math.inf
        self._epoch: Epoch | None = None
        self._looking: asyncio.Task[None] | None = None
        self._not_before = -math.inf

    def lacks(self, hash_part: bytes) -> bool:
        """Whether no path with `hash_part` is in the store directory at this moment; False says nothing."""
        if self._filter is None or self._epoch is None or monotonic() >= self._epoch.until:
            return False
        if not self._filter.lacks(hash_part):
            return False  # whatever has come: no name goes from the filter
        # Names that have come may have changed the filter, or ended it.
        return not self._take() or (self._filter is not None and self._filter.lacks(hash_part))

    def follow(self, epoch: Epoch) -> None:
        """Go by `epoch`, in which the store directory does not change; the present one, or it is not known any more."""
        if epoch is not self._epoch:
            self._epoch = epoch
            self._take()
            if monotonic() - self._told_at > _TELLS_SECONDS:
                self._filter = None
        if self._filter is None and self._looking is None and monotonic() >= self._not_before:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def close(self) -> None:
        """Watch the directory no more."""
        if self._looking is not None:
            self._looking.cancel()
        self._forget()

    def _forget(self) -> None:
        self._filter = None
        if self._told is not None:
            self._told.close()
            self._told = None

    def _take(self) -> bool:
        """Add the names that have come; whether that may have changed the filter."""
        if self._told is None or self._filter is None:
            return True
        try:
            names = self._told.take()
        except NamesLost:
            self._forget()
            return True
        if not names:
            return False
        self._told_at = monotonic()
        self._filter.add(map(_HASH_PART_OF, names))
        if self._filter.count > self._filter.capacity:
            self._filter = None
        return True

    async def _look(self) -> None:
        """Look at the whole directory."""
        began = monotonic()
        try:
            # First, so that a name which comes during the look is told of.
            if self._told is None:
                self._told = NewNames(self._directory)
            found = await self._threads.run(_names_in, self._directory)
            self._told_at = monotonic()
            self._filter = found
        except OSError:
            # Go on without a filter: the store is asked. Errors of the directory are logged where files are read.
            self._forget()
        finally:
            self._looking = None
            self._not_before = monotonic() + (monotonic() - began) / _SHARE


def last_change(directory: str | Path) -> int:
    """When a name last came into the store directory, or left it, in nanoseconds since the epoch; it may block.

    Raises:
        StorageError: the directory cannot be looked at.
    """
    try:
        return Path(directory).stat().st_mtime_ns
    except OSError as error:
        raise StorageError(f"the store directory cannot be read: {describe_os_error(error)}") from error


def _names_in(directory: str) -> NameFilter:
    # How many names there are is known at the end; until then each takes eight bytes.
    numbers = array("q")
    with os.scandir(os.fsencode(directory)) as entries:
        while some := list(islice(entries, _NAMES_AT_ONCE)):
            numbers.extend(map(hash, map(_HASH_PART_OF, map(_NAME_OF, some))))
    found = NameFilter(_ROOM * len(numbers))
    found.add_hashes(numbers)
    return found
