"""The counters of conversations with the nix-daemon, under Harmonia's names."""

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge, Histogram
from harmonia_py.metrics.counters import Counters, counted, gauged, observed


class DaemonMetrics(Counters, frozen=True):
    """The pool of connections.

    Attributes:
        active: connections with a question on them.
        idle: connections that wait for one.
        created: connections opened.
        refused: connections that could not be opened.
        reused_after: the waits of questions that got a connection which was there.
        created_after: the waits of questions for which one was opened.
        timed_out_after: the waits of questions that got none because all were busy.
        failed_after: the waits of questions for which none could be opened.
        timeouts: questions given up because every connection stayed busy.
        broken: questions on connections that ended or talked nonsense.
        creation_failed: questions for which no connection could be opened.
    """

    active: Gauge = gauged(families.store.DAEMON_ACTIVE)
    idle: Gauge = gauged(families.store.DAEMON_IDLE)
    created: Counter = counted(families.store.DAEMON_CREATED, "success")
    refused: Counter = counted(families.store.DAEMON_CREATED, "error")
    reused_after: Histogram = observed(families.store.DAEMON_ACQUIRE, "reused")
    created_after: Histogram = observed(families.store.DAEMON_ACQUIRE, "created")
    timed_out_after: Histogram = observed(families.store.DAEMON_ACQUIRE, "timeout")
    failed_after: Histogram = observed(families.store.DAEMON_ACQUIRE, "error")
    timeouts: Counter = counted(families.store.DAEMON_ERRORS, "timeout")
    broken: Counter = counted(families.store.DAEMON_ERRORS, "broken")
    creation_failed: Counter = counted(families.store.DAEMON_ERRORS, "creation_failed")
