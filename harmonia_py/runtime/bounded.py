"""Memory that has a bound: the entry that was put in longest ago goes first."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Bounded(OrderedDict[K, V]):
    """A dictionary of at most `most` entries. An entry that is set again counts as new."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._most:
            self.popitem(last=False)


class TimedSet(Bounded[K, float]):
    """Keys of which something is true for a while. At most `most`, each with the time of its end as the value."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(most)
        self._clock = clock

    def add(self, key: K, seconds: float) -> None:
        """Add `key` for so many seconds from now on."""
        self[key] = self._clock() + seconds

    def holds(self, key: K) -> bool:
        """Whether it is true of `key` at this moment."""
        return self.get(key, 0.0) > self._clock()
