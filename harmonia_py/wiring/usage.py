"""The counters of the use of each cache. A cache beyond the first hundred has none of its own."""

from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.caches import CacheRow, Caches
from harmonia_py.metrics.board import Metrics
from harmonia_py.metrics.cache_labels import MOST_NAMED, OTHERS


class Usages:
    """The counters of one worker.

    Args:
        metrics: the counters of this process.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._by_label: dict[str, CacheUsage] = {}
        self.default = self._labelled(metrics.cache_labels.label(DEFAULT))

    async def of(self, cache: CacheRow, caches: Caches) -> CacheUsage:
        """The counters of a cache of the catalog.

        Raises:
            StorageError: the catalog cannot tell whether the cache is one of the first.
        """
        labels = self._metrics.cache_labels
        if not labels.has(cache.name) and await caches.older(cache.id, MOST_NAMED) >= MOST_NAMED:
            return self._labelled(OTHERS)
        return self._labelled(labels.label(cache.name))

    def _labelled(self, label: str) -> CacheUsage:
        usage = self._by_label.get(label)
        if usage is None:
            usage = self._by_label[label] = CacheUsage.on(self._metrics, label)
        return usage
