"""The counters of conversations with an upstream."""

from harmonia_py.errors import UpstreamError, UpstreamProtocolError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged


class UpstreamMetrics(Counters, frozen=True):
    """One upstream.

    Attributes:
        found: requests that it answered with what was asked for.
        absent: requests that it answered with its not having it.
        unreachable: requests that it did not answer, not in time, or with its not being able to.
        malformed: answers that broke the protocol or did not parse.
        untrusted: narinfos without a signature by a trusted key, NARs with another hash than promised.
        received_bytes: bytes of bodies that came from it.
        breaker_open: 1 while it is not asked because it failed.
    """

    found: Counter = counted(families.upstreams.UPSTREAM_REQUESTS, "found")
    absent: Counter = counted(families.upstreams.UPSTREAM_REQUESTS, "absent")
    unreachable: Counter = counted(families.upstreams.UPSTREAM_ERRORS, "unreachable")
    malformed: Counter = counted(families.upstreams.UPSTREAM_ERRORS, "protocol")
    untrusted: Counter = counted(families.upstreams.UPSTREAM_ERRORS, "untrusted")
    received_bytes: Counter = counted(families.upstreams.UPSTREAM_BYTES)
    breaker_open: Gauge = gauged(families.upstreams.UPSTREAM_BREAKER)

    def failed(self, error: UpstreamError) -> None:
        """Count a request that ended with `error`."""
        (self.malformed if isinstance(error, UpstreamProtocolError) else self.unreachable).add()
