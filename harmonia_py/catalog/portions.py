"""`Portions`: how many rows the collector takes in one transaction."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

# Rows of a transaction, to begin with: fewer cost more for each (benchmarks/collection.py).
FIRST_ROWS: Final = 512
# Four times as many cost half: rows on the same page of the database are written together.
_MOST_ROWS: Final = 4 * FIRST_ROWS
# Each row is on some twenty pages anywhere in the database. A hard disk reads a hundred of these a second, and a
# transaction has ten seconds.
_FEWEST_ROWS: Final = 32
# Other writers, such as pushes, wait for a transaction: below the first it grows, above the second it shrinks.
_SHORT_SECONDS: Final = 0.25
_LONG_SECONDS: Final = 0.5


class Portions:
    """The number of rows that a transaction takes: as many as are done before other writers have waited for long.

    Args:
        size: a fixed number; None: it follows from the time that transactions take.
    """

    def __init__(self, size: int | None) -> None:
        self._is_fixed = size is not None
        self.size = size or FIRST_ROWS

    @contextmanager
    def timed(self) -> Iterator[Callable[[int], None]]:
        """A block for one transaction of `size` rows at most, which calls the given function with the rows it took.

        One that fails has perhaps taken too long: the next one takes half as many.
        """
        taken = 0

        def took(rows: int) -> None:
            nonlocal taken
            taken = rows

        begun = time.monotonic()
        try:
            yield took
        except BaseException:
            self._set(self.size // 2)
            raise
        seconds = time.monotonic() - begun
        if seconds > _LONG_SECONDS:
            self._set(self.size // 2)
        elif seconds < _SHORT_SECONDS and taken >= self.size:
            self._set(self.size * 2)

    def _set(self, size: int) -> None:
        if not self._is_fixed:
            self.size = min(_MOST_ROWS, max(_FEWEST_ROWS, size))
