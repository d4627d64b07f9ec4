"""The counters of one part of the program, a line each: the field, and its series on `/metrics`.

@dataclass(frozen=True, slots=True)
class Downloads(Counters):
    begun: Counter = counted(families.DOWNLOADS, "begun")

Downloads()               # counts for itself, in a test or a command
Downloads.on(metrics)     # counts where `/metrics` sees it
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Final, Self

from harmonia_py.metrics.board import Counter, Gauge, Histogram, Metrics
from harmonia_py.metrics.family import Family

_SERIES: Final = "series"


@dataclass(frozen=True, slots=True)
class Counters:
    """Numbers that are changed where something happens. They are on `/metrics` when they are made by `on`."""

    @classmethod
    def on(cls, metrics: Metrics, *labels: str) -> Self:
        """Count there; `labels` are the values that the labels of each of its series begin with."""
        series: dict[str, Callable[..., Counter | Histogram]] = {one.name: one.metadata[_SERIES] for one in fields(cls)}
        return cls(**{name: place(metrics, *labels) for name, place in series.items()})

    @contextlib.contextmanager
    def shown_meanwhile(self) -> Iterator[None]:
        """Set the gauges to zero when the context ends: of what they tell, another process may tell from then on."""
        try:
            yield
        finally:
            for one in fields(self):
                value = getattr(self, one.name)
                if isinstance(value, Gauge):
                    value.set(0.0)


def counted(family: Family, *labels: str) -> Counter:
    """The field of a counter, with these values of the labels that are left."""
    place = {_SERIES: lambda metrics, *given: metrics.counter(family, *given, *labels)}
    return field(default_factory=Counter, metadata=place)


def gauged(family: Family, *labels: str) -> Gauge:
    """The field of a gauge, with these values of the labels that are left."""
    place = {_SERIES: lambda metrics, *given: metrics.gauge(family, *given, *labels)}
    return field(default_factory=Gauge, metadata=place)


def observed(family: Family, *labels: str) -> Histogram:
    """The field of a histogram, with these values of the labels that are left."""
    place = {_SERIES: lambda metrics, *given: metrics.histogram(family, *given, *labels)}
    return field(default_factory=lambda: Histogram(family.buckets), metadata=place)
