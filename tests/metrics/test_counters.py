"""Figures that are declared where something is counted, and the series that they are on `/metrics`."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge, Histogram, Metrics
from harmonia_py.metrics.counters import Counters, counted, gauged, observed
from harmonia_py.metrics.exposition import format_metrics
from harmonia_py.metrics.totals import read_figures


class Counted(Counters, frozen=True):
    found: Counter = counted(families.upstreams.UPSTREAM_REQUESTS, "found")
    breaker_open: Gauge = gauged(families.upstreams.UPSTREAM_BREAKER)


class Waited(Counters, frozen=True):
    after: Histogram = observed(families.store.DAEMON_ACQUIRE, "reused")


def test_they_are_the_series_with_the_labels_that_are_given_and_then_their_own() -> None:
    metrics = Metrics.alone()
    figures = Counted.on(metrics, "a-cache")
    figures.found.add()
    figures.breaker_open.set(1)
    assert metrics.counter(families.upstreams.UPSTREAM_REQUESTS, "a-cache", "found").value == 1
    assert metrics.gauge(families.upstreams.UPSTREAM_BREAKER, "a-cache").value == 1


def test_made_by_themselves_they_count_for_nobody_else() -> None:
    one, other = Counted(), Counted()
    one.found.add()
    assert (one.found.value, other.found.value) == (1, 0)


def test_a_histogram_has_the_buckets_of_its_family() -> None:
    metrics = Metrics.alone()
    for figures in (Waited(), Waited.on(metrics)):
        figures.after.observe(0.002)
    text = format_metrics(read_figures(metrics.board))
    assert f'{families.store.DAEMON_ACQUIRE.name}_count{{outcome="reused"}} 1' in text
