"""The counters of conversations with an upstream."""

from msgspec.structs import replace

from harmonia_py.errors import UpstreamError, UpstreamProtocolError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.counters import Counters, counted, gauged
from harmonia_py.mirror.upstream import Body, Resume, Take, Tap, Upstream
from harmonia_py.nix.signing import PublicKey


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


class CountedUpstream:
    """An `Upstream` that is another one, counted.

    What it answers is counted here. `Upstreams` decides whether it is asked and whether it is trusted, and counts that.
    """

    def __init__(self, upstream: Upstream, metrics: UpstreamMetrics) -> None:
        self.metrics = metrics
        self._upstream = upstream

    @property
    def name(self) -> str:
        """The upstream's own."""
        return self._upstream.name

    @property
    def priority(self) -> int:
        """The upstream's own."""
        return self._upstream.priority

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """The upstream's own."""
        return self._upstream.public_keys

    async def open(self, url: str, resume: Resume | None = None) -> Body | None:
        """The body at `url`, with its bytes counted as they come."""
        try:
            body = await self._upstream.open(url, resume)
        except UpstreamError as error:
            self.metrics.failed(error)
            raise
        if body is None:
            self.metrics.absent.add()
            return None
        self.metrics.found.add()
        counted = _CountedBody(body, self.metrics)
        return replace(body, read=counted.read, tap=counted.tap, close=counted.close)


class _CountedBody:
    def __init__(self, body: Body, metrics: UpstreamMetrics) -> None:
        self._body = body
        self._metrics = metrics
        self._tap: _CountedTap | None = None

    async def read(self) -> bytes:
        try:
            data = await self._body.read()
        except UpstreamError as error:
            self._metrics.failed(error)
            raise
        self._metrics.received_bytes.add(len(data))
        return data

    def tap(self) -> Tap | None:
        tap = self._body.tap()
        self._tap = None if tap is None else _CountedTap(tap, self._metrics)
        return self._tap

    def close(self) -> None:
        if self._tap is not None:
            self._tap.settle()
        self._body.close()


class _CountedTap:
    """A `Tap`. What threads have taken is counted by the event loop, which alone changes figures."""

    def __init__(self, tap: Tap, metrics: UpstreamMetrics) -> None:
        self._tap = tap
        self._metrics = metrics
        self._taken = 0
        self._error: UpstreamError | None = None

    def run(self, take: Take) -> bool:
        def counted(data: memoryview) -> None:
            self._taken += len(data)
            take(data)

        try:
            return self._tap.run(counted)
        except UpstreamError as error:
            self._error = error
            raise

    async def wait(self) -> None:
        self.settle()
        try:
            await self._tap.wait()
        except UpstreamError as error:
            self._metrics.failed(error)
            raise

    def settle(self) -> None:
        self._metrics.received_bytes.add(self._taken)
        if self._error is not None:
            self._metrics.failed(self._error)
        self._taken, self._error = 0, None
