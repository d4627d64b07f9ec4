"""Memory that has a bound: the entry that was put in, or used, longest ago goes first."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

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


class BoundedBytes(Generic[K, V]):
    """Values of at most `most` bytes together, as `size` tells of each; the one used least recently goes first."""

    def __init__(self, most: int, size: Callable[[V], int]) -> None:
        self.bytes = 0
        self._most = most
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value of `key`, which has now been used."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep the value, unless it alone is too large, and no other one of `key`."""
        self.drop(key)
        if self._size(value) > self._most:
            return
        self._values[key] = value
        self.bytes += self._size(value)
        while self.bytes > self._most:
            self.drop(next(iter(self._values)))

    def drop(self, key: K) -> None:
        """Forget the value of `key`."""
        value = self._values.pop(key, None)
        if value is not None:
            self.bytes -= self._size(value)


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
