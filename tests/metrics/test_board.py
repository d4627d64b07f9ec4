"""The memory that workers share, with real processes."""

import os
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Board, Metrics
from harmonia_py.metrics.totals import Totals, read_figures

BYTES = families.http.HTTP_SENT_BYTES


def in_a_child(work: Callable[[], object]) -> int:
    """Fork, let the child do `work` and end; its process id, which no process has any more."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    return pid


def value(figures: Totals, series: str) -> float:
    (number,) = figures[series]
    return number


def test_what_several_processes_count_adds_up() -> None:
    board = Board(3)
    ours = board.claim(0).counter(BYTES, "nar")
    ours.add(1)
    in_a_child(lambda: board.claim(1).counter(BYTES, "nar").add(10))
    in_a_child(lambda: board.claim(2).counter(BYTES, "nar").add(100))
    assert value(read_figures(board), BYTES.series("nar")) == 111


def test_a_worker_in_the_place_of_another_counts_on() -> None:
    board = Board(1)
    for _ in range(3):
        in_a_child(lambda: board.claim(0).counter(BYTES, "nar").add(5))
    assert value(read_figures(board), BYTES.series("nar")) == 15
    assert len(board.read()) == 1


def test_gauges_end_with_their_worker_and_counters_do_not() -> None:
    """Transfers of a worker that was killed stayed in flight for ever."""
    board = Board(1)

    def be_killed() -> None:
        metrics = board.claim(0)
        metrics.gauge(families.http.TRANSFERS_IN_FLIGHT).add(7)
        metrics.counter(BYTES, "nar").add(7)

    in_a_child(be_killed)
    figures = read_figures(board)
    assert value(figures, families.http.TRANSFERS_IN_FLIGHT.series()) == 0
    assert value(figures, BYTES.series("nar")) == 7
    # And whoever takes over starts at zero.
    assert board.claim(0).gauge(families.http.TRANSFERS_IN_FLIGHT).value == 0


def test_a_worker_that_finishes_its_transfers_keeps_its_slot_from_the_next() -> None:
    board = Board(1)
    board.claim(0).counter(BYTES, "nar").add(1)
    in_a_child(lambda: board.claim(0).counter(BYTES, "nar").add(2))
    assert len(board.read()) == 2
    assert value(read_figures(board), BYTES.series("nar")) == 3


def test_a_worker_for_whom_there_is_no_slot_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    board = Board(1)
    board.claim(0)
    board.claim(0)
    lost = board.claim(0).counter(BYTES, "nar")
    lost.add(1)
    assert lost.value == 1
    assert BYTES.series("nar") not in read_figures(board)
    assert "not counted" in caplog.text


def test_asking_again_gives_the_same_series() -> None:
    metrics = Metrics.alone()
    metrics.counter(BYTES, "nar").add(1)
    again = metrics.counter(BYTES, "nar")
    again.add(1)
    assert again.value == 2


def test_of_a_gauge_that_says_whether_anybody_the_most_counts() -> None:
    board = Board(2)
    metrics = [board.claim(0), board.claim(1)]
    for one in metrics:
        one.gauge(families.upstreams.UPSTREAM_BREAKER, "cache").set(1)
        one.gauge(families.http.HTTP_CONNECTIONS).set(1)
    figures = read_figures(board)
    assert value(figures, families.upstreams.UPSTREAM_BREAKER.series("cache")) == 1
    assert value(figures, families.http.HTTP_CONNECTIONS.series()) == 2


def test_a_context_counts_one_more_also_when_it_fails() -> None:
    gauge = Metrics.alone().gauge(families.http.TRANSFERS_IN_FLIGHT)

    def fail() -> None:
        with gauge.one_more():
            assert gauge.value == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert gauge.value == 0


def test_too_many_series_are_left_out_and_harm_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Names of upstreams come from the configuration, and every reload may bring others."""
    board = Board(1)
    metrics = board.claim(0)
    names = [f"upstream-{number}-{'x' * 200}" for number in range(2000)]
    for name in names:
        metrics.counter(families.upstreams.UPSTREAM_BYTES, name).add(1)
    figures = read_figures(board)
    assert value(figures, families.upstreams.UPSTREAM_BYTES.series(names[0])) == 1
    assert families.upstreams.UPSTREAM_BYTES.series(names[-1]) not in figures
    assert "too many series" in caplog.text


@given(st.lists(st.floats(0, 100), max_size=20))
def test_a_histogram_puts_each_value_into_the_first_bucket_that_holds_it(values: list[float]) -> None:
    board = Board(1)
    histogram = board.claim(0).histogram(families.store.DAEMON_ACQUIRE, "reused")
    for one in values:
        histogram.observe(one)
    *counts, total = board.read()[0].series[families.store.DAEMON_ACQUIRE.series("reused")]
    bounds = [*families.store.DAEMON_ACQUIRE.buckets, float("inf")]
    for number, bound in enumerate(bounds):
        assert sum(counts[: number + 1]) == sum(one <= bound for one in values)
    assert total == pytest.approx(sum(values))


def test_the_processor_time_of_ended_workers_is_kept() -> None:
    """When a worker was replaced the sum fell, which Prometheus takes for a restart."""
    board = Board(1)

    def work() -> None:
        board.claim(0)
        while sum(os.times()[:2]) < 0.1:
            pass

    before = value(read_figures(board), families.processes.PROCESS_CPU.series())
    in_a_child(work)
    assert value(read_figures(board), families.processes.PROCESS_CPU.series()) >= before + 0.08


def test_the_process_figures_are_those_of_the_kernel() -> None:
    board = Board(1)
    board.claim(0)
    figures = read_figures(board)
    assert value(figures, families.processes.WORKERS.series()) == 1
    open_fds = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert value(figures, families.processes.PROCESS_FDS.series()) == pytest.approx(open_fds, abs=2)
    assert value(figures, families.processes.WORKER_RSS.series("0")) > 10_000_000
    assert value(figures, families.processes.PROCESS_START.series()) == pytest.approx(time.time(), abs=3600)


def test_a_process_that_was_given_the_id_of_a_worker_is_not_one() -> None:
    board = Board(1)
    board.claim(0).gauge(families.http.HTTP_CONNECTIONS).set(3)
    board.maker = 1  # as if this process were the child of somebody else than the worker's parent
    assert os.getppid() != 1
    assert value(read_figures(board), families.http.HTTP_CONNECTIONS.series()) == 0
