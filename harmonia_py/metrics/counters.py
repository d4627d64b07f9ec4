"""The counters of one part of the program, a line each: the field, and its series on `/metrics`.

class Downloads(Counters, frozen=True):
    begun: Counter = counted(families.DOWNLOADS, "begun")

Downloads()               # counts for itself, in a test or a command
Downloads.on(metrics)     # counts where `/metrics` sees it
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

from msgspec import Struct, field

from harmonia_py.metrics.board import Counter, Gauge, Histogram, Metrics
from harmonia_py.metrics.family import Family

T = TypeVar("T")


class _Series(Struct, frozen=True):
    """Makes the number of a field: one that counts for itself, when it is called, or one of `Metrics`."""

    alone: Callable[[], Any]
    shown: Callable[..., Any]

    def __call__(self) -> Any:
        return self.alone()


class Counters(Struct, frozen=True):
    """Numbers that are changed where something happens. They are on `/metrics` when they are made by `on`."""

    @classmethod
    def on(cls, metrics: Metrics, *labels: str) -> Self:
        """Count there; `labels` are the values that the labels of each of its series begin with."""
        # Not by `msgspec.structs.fields`, which evaluates every annotation as well: 300 KB in each worker.
        series: Sequence[_Series] = [default.factory for default in cls.__struct_defaults__]
        return cls(*(one.shown(metrics, *labels) for one in series))

    @contextlib.contextmanager
    def shown_meanwhile(self) -> Iterator[None]:
        """Set the gauges to zero when the context ends: of what they tell, another process may tell from then on."""
        try:
            yield
        finally:
            for name in self.__struct_fields__:
                value = getattr(self, name)
                if isinstance(value, Gauge):
                    value.set(0.0)


def counted(family: Family, *labels: str) -> Counter:
    """The field of a counter, with these values of the labels that are left."""
    return _field(Counter, lambda metrics, *given: metrics.counter(family, *given, *labels))


def gauged(family: Family, *labels: str) -> Gauge:
    """The field of a gauge, with these values of the labels that are left."""
    return _field(Gauge, lambda metrics, *given: metrics.gauge(family, *given, *labels))


def observed(family: Family, *labels: str) -> Histogram:
    """The field of a histogram, with these values of the labels that are left."""
    return _field(lambda: Histogram(family.buckets), lambda metrics, *given: metrics.histogram(family, *given, *labels))


def _field(alone: Callable[[], T], shown: Callable[..., object]) -> T:
    made: T = field(default_factory=_Series(alone, shown))
    return made
