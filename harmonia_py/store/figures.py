"""What is counted of the conversations with the nix-daemon, under Harmonia's names."""

from dataclasses import dataclass, field
from typing import Self

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge, Histogram, Metrics


def _histogram() -> Histogram:
    return Histogram(families.DAEMON_ACQUIRE.buckets)


@dataclass(frozen=True, slots=True)
class DaemonFigures:
    """The pool of connections.

    Attributes:
        active: connections with a question on them.
        idle: connections that wait for one.
        created: connections opened.
        refused: connections that could not be opened.
        reused_after: how long questions waited that got a connection which was there.
        created_after: those for which one was opened.
        timed_out_after: those that got none because all were busy.
        failed_after: those for which none could be opened.
        timeouts: questions given up because every connection stayed busy.
        broken: questions on connections that ended or talked nonsense.
        creation_failed: questions for which no connection could be opened.
    """

    active: Gauge = field(default_factory=Gauge)
    idle: Gauge = field(default_factory=Gauge)
    created: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    reused_after: Histogram = field(default_factory=_histogram)
    created_after: Histogram = field(default_factory=_histogram)
    timed_out_after: Histogram = field(default_factory=_histogram)
    failed_after: Histogram = field(default_factory=_histogram)
    timeouts: Counter = field(default_factory=Counter)
    broken: Counter = field(default_factory=Counter)
    creation_failed: Counter = field(default_factory=Counter)

    @classmethod
    def on(cls, metrics: Metrics) -> Self:
        """Count them there."""
        return cls(
            active=metrics.gauge(families.DAEMON_ACTIVE),
            idle=metrics.gauge(families.DAEMON_IDLE),
            created=metrics.counter(families.DAEMON_CREATED, "success"),
            refused=metrics.counter(families.DAEMON_CREATED, "error"),
            reused_after=metrics.histogram(families.DAEMON_ACQUIRE, "reused"),
            created_after=metrics.histogram(families.DAEMON_ACQUIRE, "created"),
            timed_out_after=metrics.histogram(families.DAEMON_ACQUIRE, "timeout"),
            failed_after=metrics.histogram(families.DAEMON_ACQUIRE, "error"),
            timeouts=metrics.counter(families.DAEMON_ERRORS, "timeout"),
            broken=metrics.counter(families.DAEMON_ERRORS, "broken"),
            creation_failed=metrics.counter(families.DAEMON_ERRORS, "creation_failed"),
        )
