"""What eviction has to know of all blobs, which may be hundreds of thousands, without ever holding up the event loop.

Columns instead of objects, because Python's collector of cycles looks at all objects again and again, and stops every
thread meanwhile. Small parts, because a single call that sorts or frees a hundred thousand of anything lets no other
thread run until it is done.
"""

import heapq
from array import array
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Final

from harmonia_py.cache.blobs import BlobInfo, BlobKey

# Of 100,000 units each part has 400, which are sorted, and freed, in a tenth of a millisecond.
_PARTS: Final = 256
_FREED_AT_ONCE: Final = 1024
# Where the blobs of a unit end.
_NONE: Final = -1


class Census:
    """All blobs, in rows.

    Attributes:
        bytes: how large they are together.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._keys: list[str] = []
        self._sizes = array("q")
        self._last_uses = array("d")

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, info: BlobInfo) -> None:
        """Count one more blob."""
        self.bytes += info.size
        self._keys.append(str(info.key))  # plain text is nothing to the collector
        self._sizes.append(info.size)
        self._last_uses.append(info.last_used)

    def least_recently_used(
        self, unit_of: Callable[[BlobKey], str], spared: Collection[str]
    ) -> Iterator[list[BlobInfo]]:
        """What goes together, what was not used for longest first; what is small comes before what is large.

        Args:
            unit_of: names what a blob goes with. When one of them was used, all were.
            spared: units that do not go.
        """
        after, parts = self._units(unit_of, spared)
        ordered = [self._in_order(part, after) for part in parts]
        del parts
        merged = heapq.merge(*ordered)
        try:
            for _, first in merged:
                yield sorted(map(self._info, _chain(first, after)), key=lambda info: info.size)
        finally:
            del merged
            while ordered:
                ordered.pop().close()

    def clear(self) -> None:
        """Forget them, few at a time."""
        while self._keys:
            del self._keys[-_FREED_AT_ONCE:]

    def _info(self, row: int) -> BlobInfo:
        return BlobInfo(BlobKey(self._keys[row]), self._sizes[row], self._last_uses[row])

    def _units(
        self, unit_of: Callable[[BlobKey], str], spared: Collection[str]
    ) -> "tuple[array[int], list[dict[str, int]]]":
        """For each row the next one of the same unit, and the first row of each unit, in parts."""
        after = array("q", [_NONE]) * len(self._keys)
        parts: list[dict[str, int]] = [{} for _ in range(_PARTS)]
        for row, key in enumerate(self._keys):
            unit = str(unit_of(BlobKey(key)))
            if unit not in spared:
                part = parts[hash(unit) % _PARTS]
                after[row] = part.get(unit, _NONE)
                part[unit] = row
        return after, parts

    def _in_order(self, part: dict[str, int], after: "array[int]") -> Generator[tuple[float, int], None, None]:
        """The last use and the first row of each unit, the earliest use first."""
        units = [(max(self._last_uses[row] for row in _chain(first, after)), first) for first in part.values()]
        yield from sorted(units)


def _chain(row: int, after: "array[int]") -> Iterator[int]:
    while row != _NONE:
        yield row
        row = after[row]
