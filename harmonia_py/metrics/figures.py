"""What one part of the program counts, a line each: the field, and the series on `/metrics` that it is.

@dataclass(frozen=True, slots=True)
class Downloads(Figures):
    begun: Counter = counted(families.DOWNLOADS, "begun")

Downloads()               # counts for itself, in a test or a command
Downloads.on(metrics)     # counts where `/metrics` sees it
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Final, Self

from harmonia_py.metrics.board import Counter, Gauge, Histogram, Metrics
from harmonia_py.metrics.families import Family

_SERIES: Final = "series"


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers that are changed where something happens. Nobody else sees them unless they are made by `on`."""

    @classmethod
    def on(cls, metrics: Metrics, *labels: str) -> Self:
        """Count there; `labels` are the values that the labels of each of its series begin with."""
        series: dict[str, Callable[..., Counter | Histogram]] = {one.name: one.metadata[_SERIES] for one in fields(cls)}
        return cls(**{name: place(metrics, *labels) for name, place in series.items()})


def counted(family: Family, *labels: str) -> Counter:
    """The field of a counter, with these values of the labels that are left."""
    place = {_SERIES: lambda metrics, *given: metrics.counter(family, *given, *labels)}
    return field(default_factory=Counter, metadata=place)


def gauged(family: Family, *labels: str) -> Gauge:
    """The field of a gauge, likewise."""
    place = {_SERIES: lambda metrics, *given: metrics.gauge(family, *given, *labels)}
    return field(default_factory=Gauge, metadata=place)


def observed(family: Family, *labels: str) -> Histogram:
    """The field of a histogram, likewise."""
    place = {_SERIES: lambda metrics, *given: metrics.histogram(family, *given, *labels)}
    return field(default_factory=lambda: Histogram(family.buckets), metadata=place)
