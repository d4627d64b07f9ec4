"""Numbers that every worker can read and one can write, in memory they share.

The supervisor makes a `Board` before it forks. Each worker claims a slot of it and enters its series there, each with
its name and its numbers, and counts by writing them: no lock, no message, a tenth of a microsecond. The worker that is
asked for the figures adds up all slots. A worker that replaces one that ended takes its slot over and counts on.
"""

import contextlib
import logging
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.metrics.cache_labels import CacheLabels
from harmonia_py.metrics.families import FAMILIES
from harmonia_py.metrics.family import Family
from harmonia_py.metrics.loads import Load, Loads, lives
from harmonia_py.metrics.shared import SharedNumbers, SharedTexts

_log = logging.getLogger(__name__)

# A worker has some 600 series of at most 200 bytes, and 600 of caches, of at most 112. Unused bytes take no memory.
_SLOT_BYTES: Final = 256 * 1024
# A reload may ask for more workers than there were.
_LEAST_PLACES: Final = 32
# Of one place, while a worker that is no longer wanted finishes its transfers.
_SLOTS_OF_A_PLACE: Final = 2

# The slot's header: the process that writes it, and the end of the last entry, counted in words.
_PROCESS: Final = 0
_END: Final = 1
_HEADER_WORDS: Final = 8
# An entry: the length of its name and how many numbers it has, the name padded to whole words, the numbers.
_ENTRY: Final = struct.Struct("=II")
_WORD: Final = 8

FAMILIES_BY_NAME: Final = {family.name: family for family in FAMILIES}


class Counter:
    """A number that grows."""

    __slots__ = ("_cells", "_index")

    def __init__(self, cells: "memoryview[float] | None" = None, index: int = 0) -> None:
        self._cells = _alone(1) if cells is None else cells
        self._index = index

    @property
    def value(self) -> float:
        """The counts of this worker, and of the one whose slot it took over."""
        return self._cells[self._index]

    def add(self, amount: float = 1.0) -> None:
        """Count `amount` more."""
        self._cells[self._index] += amount


class Gauge(Counter):
    """A number that rises and falls; `add` also takes what is less than zero."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Make it `value`."""
        self._cells[self._index] = value

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one more for as long as the context lasts."""
        self.add(1.0)
        try:
            yield
        finally:
            self.add(-1.0)


class Histogram:
    """How many observations fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "_cells", "_index", "_sum")

    def __init__(self, bounds: Sequence[float], cells: "memoryview[float] | None" = None, index: int = 0) -> None:
        self._bounds = bounds
        self._cells = _alone(len(bounds) + 2) if cells is None else cells
        self._index = index
        self._sum = index + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Count `value`. A bucket holds its upper bound."""
        cells = self._cells
        cells[self._index + bisect_left(self._bounds, value)] += 1.0
        cells[self._sum] += value


def _alone(cells: int) -> "memoryview[float]":
    return memoryview(bytearray(cells * _WORD)).cast("d")


class SlotReading(Struct, frozen=True):
    """One worker's figures, or those that a worker that has ended left.

    Attributes:
        number: of the slot.
        process: that writes it, or did.
        series: the numbers of each series, by its name and labels.
    """

    number: int
    process: int
    series: Mapping[str, list[float]]


class Board:
    """The slots of all workers.

    Args:
        workers: how many there are going to be.

    Attributes:
        maker: the process that made it, which is the workers' parent.
        shared: numbers that all of them write, beside the slots.
        texts: the same of texts.
    """

    def __init__(self, workers: int) -> None:
        self.maker = os.getpid()
        self.shared = SharedNumbers()
        self.texts = SharedTexts()
        self._places = max(2 * workers, _LEAST_PLACES)
        self._slots = self._places * _SLOTS_OF_A_PLACE
        self._memory = memoryview(mmap.mmap(-1, self._slots * _SLOT_BYTES))
        self._loads = Loads(self._slots)

    def claim(self, index: int) -> "Metrics":
        """The figures of the worker with this index, in the process that calls."""
        for number in range(index, self._slots, self._places):
            if not lives(self._slot(number).cast("Q")[_PROCESS]):
                return Metrics(self._slot(number), self, self._loads.of(number))
        _log.warning("worker %d is not counted on /metrics until the next start", index)
        return Metrics(memoryview(bytearray(_SLOT_BYTES)), self, Loads(1).of(0))

    def read(self) -> list[SlotReading]:
        """The counts in all slots that were ever claimed."""
        readings = []
        for number in range(self._slots):
            slot = self._slot(number)
            process = slot.cast("Q")[_PROCESS]
            if process:
                cells: memoryview[float] = slot.cast("d")
                series = {name: list(cells[start : start + count]) for name, start, count in _entries(slot)}
                readings.append(SlotReading(number, process, series))
        return readings

    def _slot(self, number: int) -> memoryview:
        return self._memory[number * _SLOT_BYTES : (number + 1) * _SLOT_BYTES]


class Metrics:
    """One worker's figures. Asking for the same series again gives the same numbers.

    Attributes:
        board: the figures of all.
        load: how many connections this worker has, and whether others have fewer.
        cache_labels: the values of the label `cache`.
    """

    def __init__(self, slot: memoryview, board: Board, load: Load) -> None:
        self.board = board
        self.load = load
        self._slot = slot
        self._words = slot.cast("Q")
        self._cells = slot.cast("d")
        self._places = {name: start for name, start, _ in _entries(slot)}
        self.cache_labels = CacheLabels(self._places)
        for name, start in self._places.items():
            if FAMILIES_BY_NAME[name.partition("{")[0]].kind == "gauge":
                self._cells[start] = 0.0  # it ended with the worker before
        self._words[_END] = self._words[_END] or _HEADER_WORDS
        self._words[_PROCESS] = os.getpid()

    @classmethod
    def alone(cls) -> "Metrics":
        """Metrics of one process, on memory of its own."""
        return Board(1).claim(0)

    def counter(self, family: Family, *labels: str) -> Counter:
        """The counter with these values of its labels; it is on `/metrics` from now on."""
        return Counter(*self._place(family, labels))

    def gauge(self, family: Family, *labels: str) -> Gauge:
        """The gauge with these values of its labels; it is on `/metrics` from now on."""
        return Gauge(*self._place(family, labels))

    def histogram(self, family: Family, *labels: str) -> Histogram:
        """The histogram with these values of its labels; it is on `/metrics` from now on."""
        return Histogram(family.buckets, *self._place(family, labels))

    def _place(self, family: Family, labels: tuple[str, ...]) -> "tuple[memoryview[float], int]":
        series = family.series(*labels)
        start = self._places.get(series)
        if start is None:
            start = self._enter(series, family.cells)
        if start is None:
            return _alone(family.cells), 0
        return self._cells, start

    def _enter(self, series: str, cells: int) -> int | None:
        """Make room for a series; None when there is none left, and then the series is not on `/metrics`."""
        name = series.encode()
        entry = self._words[_END]
        start = entry + 1 + -(-len(name) // _WORD)
        end = start + cells
        if end > len(self._words):
            _log.warning("%s is not on /metrics: there are too many series", series)
            return None
        at = entry * _WORD
        _ENTRY.pack_into(self._slot, at, len(name), cells)
        self._slot[at + _ENTRY.size : at + _ENTRY.size + len(name)] = name
        # Readers look no further than this, so it comes last.
        self._words[_END] = end
        self._places[series] = start
        return start


def _entries(slot: memoryview) -> Iterator[tuple[str, int, int]]:
    """Name, first number and how many there are, of every series of a slot."""
    entry, end = _HEADER_WORDS, slot.cast("Q")[_END]
    while entry < end:
        at = entry * _WORD
        length, cells = _ENTRY.unpack_from(slot, at)
        start = entry + 1 + -(-length // _WORD)
        yield str(slot[at + _ENTRY.size : at + _ENTRY.size + length], "utf-8"), start, cells
        entry = start + cells
