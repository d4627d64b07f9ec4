"""The gauges of what each cache has."""

from collections import Counter

from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.caches import KeptByCaches
from harmonia_py.metrics.board import Metrics
from harmonia_py.metrics.cache_labels import OTHERS
from harmonia_py.metrics.families.caches import CACHES_KEPT_BYTES, CACHES_KEPT_PATHS, CACHES_MAX_BYTES
from harmonia_py.metrics.family import Family


class CacheGauges:
    """The gauges, as the last collection has left the caches. A cache that was deleted has nothing.

    Args:
        metrics: the counters of this process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._shown: set[tuple[Family, str]] = set()

    def show(self, kept: KeptByCaches) -> None:
        """Set them, and enter the counters of the use of these caches.

        Prometheus takes the first value that it sees of a counter for no increase: it has to see the zero.
        """
        values: Counter[tuple[Family, str]] = Counter()
        for cache in kept.oldest:
            label = self._metrics.cache_labels.label(cache.name)
            CacheUsage.on(self._metrics, label)
            values[CACHES_KEPT_PATHS, label] += cache.paths
            values[CACHES_KEPT_BYTES, label] += cache.size
            if cache.max_size is not None and label != OTHERS:
                values[CACHES_MAX_BYTES, label] = cache.max_size
        if kept.other_paths:
            values[CACHES_KEPT_PATHS, OTHERS] += kept.other_paths
            values[CACHES_KEPT_BYTES, OTHERS] += kept.other_size
        self._set(values)

    def hide(self) -> None:
        """Set them to zero: another process may show them from now on."""
        self._set(Counter())

    def _set(self, values: Counter[tuple[Family, str]]) -> None:
        self._shown |= values.keys()
        for family, label in self._shown:
            self._metrics.gauge(family, label).set(values[family, label])
