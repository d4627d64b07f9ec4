"""`Family`: a family of series on `/metrics`."""

from typing import Final, Literal

from msgspec import Struct

Kind = Literal["counter", "gauge", "histogram"]

HARMONIA_BUCKETS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
"""Upper bounds in seconds, those of Harmonia 3."""

CACHE_LABEL: Final = "cache"
"""The label with the name of a cache. It comes first."""


class Family(Struct, frozen=True):
    """Series of one name.

    Attributes:
        name: as Prometheus wants it, with its unit.
        kind: a gauge may fall, and ends with the worker that has it.
        help: one line for people that read `/metrics`.
        labels: their names, in the order in which they are written.
        buckets: upper bounds, for a histogram.
        merge: how the figures of several workers become one.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Literal["sum", "max"] = "sum"

    @property
    def cells(self) -> int:
        """How many numbers one series has: a histogram one for each bucket, one beyond them, and the sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    def series(self, *values: str) -> str:
        """The name of one series with the values of its labels, as it is written."""
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")
        if not values:
            return self.name
        pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(self.labels, values, strict=True))
        return f"{self.name}{{{pairs}}}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
