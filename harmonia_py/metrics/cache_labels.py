"""The values of the label `cache`: names of caches, as many as `/metrics` can bear.

A server may have ten thousand caches. `default` and a hundred others have series of their own; the rest are counted
together. So there are six hundred such series, and a cache beyond the hundred costs none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from harmonia_py.metrics.family import CACHE_LABEL

MOST_NAMED: Final = 101
"""How many caches have series of their own, with `default`."""
OTHERS: Final = "(others)"
"""The label of all others. No cache has this name."""

_BEGINS: Final = f'{{{CACHE_LABEL}="'


class CacheLabels:
    """The labels of one worker. A cache that has one keeps it, also when caches before it are deleted.

    Args:
        series: that are entered already, of the worker whose place this one takes.
    """

    def __init__(self, series: Iterable[str] = ()) -> None:
        self._named = {name for one in series if (name := cache_of(one)) is not None and name != OTHERS}

    def has(self, name: str) -> bool:
        """Whether the cache of this name has series of its own."""
        return name in self._named

    def label(self, name: str) -> str:
        """The label of a cache: its name while there is room for that, else `OTHERS`."""
        if name not in self._named and len(self._named) >= MOST_NAMED:
            return OTHERS
        self._named.add(name)
        return name


def cache_of(series: str) -> str | None:
    """The label `cache` of a series; None for a series without it."""
    _, begins, rest = series.partition(_BEGINS)
    return rest.partition('"')[0] if begins else None


def names_in(figures: Iterable[str]) -> set[str]:
    """The caches with series of their own among these."""
    return {name for series in figures if (name := cache_of(series)) not in (None, OTHERS)}


def without(figures: Mapping[str, Sequence[float]], names: Collection[str]) -> dict[str, Sequence[float]]:
    """The series of `figures` that are not of the caches with these names."""
    return {series: cells for series, cells in figures.items() if cache_of(series) not in names}
