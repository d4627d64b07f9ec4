"""What a collection shows of each cache on `/metrics`."""

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.catalog.cache_gauges import CacheGauges
from harmonia_py.catalog.caches import KeptByCache, KeptByCaches
from harmonia_py.metrics.board import Metrics
from harmonia_py.metrics.cache_labels import MOST_NAMED
from harmonia_py.metrics.families.caches import CACHES_NARINFOS, CACHES_PUSHED_NARS
from harmonia_py.metrics.totals import read_figures


def test_the_use_of_a_cache_is_counted_from_zero() -> None:
    """The first pushes and look-ups after a start were lost to `rate()`: the counters came with the first of them."""
    metrics = Metrics.alone()
    gauges = CacheGauges(metrics)
    # As many caches as have series of their own, with the longest names.
    names = [CacheName(f"{number:050}") for number in range(MOST_NAMED)]
    kept = KeptByCaches([KeptByCache(name, 1, 1000, 10**9) for name in names], 0, 0)
    gauges.show(kept)
    figures = read_figures(metrics.board)
    for name in names:
        assert figures[CACHES_NARINFOS.series(name, "found")] == [0]
        assert figures[CACHES_NARINFOS.series(name, "absent")] == [0]
        assert figures[CACHES_PUSHED_NARS.series(name)] == [0]
    CacheUsage.on(metrics, names[0]).pushed_nars.add(3)
    gauges.show(kept)
    assert read_figures(metrics.board)[CACHES_PUSHED_NARS.series(names[0])] == [3]
