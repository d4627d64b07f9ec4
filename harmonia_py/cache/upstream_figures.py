"""What is counted of the conversations with an upstream; its client and the mirror share them."""

from dataclasses import dataclass
from typing import Self

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge, Metrics


@dataclass(frozen=True, slots=True)
class UpstreamFigures:
    """One upstream.

    Attributes:
        found: requests that it answered with what was asked for.
        absent: requests that it answered with its not having it.
        unreachable: requests that it did not answer, not in time, or with a 5xx.
        malformed: answers that broke the protocol or did not parse.
        untrusted: narinfos without a signature by a trusted key, NARs with another hash than promised.
        received_bytes: bytes of bodies that came from it.
        breaker_open: 1 while it is not asked because it failed.
    """

    found: Counter
    absent: Counter
    unreachable: Counter
    malformed: Counter
    untrusted: Counter
    received_bytes: Counter
    breaker_open: Gauge

    @classmethod
    def on(cls, metrics: Metrics, upstream: str) -> Self:
        """Count them there, under this name: the host of the upstream's URL, never its password."""
        return cls(
            found=metrics.counter(families.UPSTREAM_REQUESTS, upstream, "found"),
            absent=metrics.counter(families.UPSTREAM_REQUESTS, upstream, "absent"),
            unreachable=metrics.counter(families.UPSTREAM_ERRORS, upstream, "unreachable"),
            malformed=metrics.counter(families.UPSTREAM_ERRORS, upstream, "protocol"),
            untrusted=metrics.counter(families.UPSTREAM_ERRORS, upstream, "untrusted"),
            received_bytes=metrics.counter(families.UPSTREAM_BYTES, upstream),
            breaker_open=metrics.gauge(families.UPSTREAM_BREAKER, upstream),
        )
