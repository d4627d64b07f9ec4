"""What is counted of the conversations with an upstream."""

from dataclasses import dataclass, field, replace
from typing import Self

from harmonia_py.cache.upstream import Body, Resume, Upstream
from harmonia_py.errors import UpstreamError, UpstreamProtocolError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge, Metrics
from harmonia_py.nix.signing import PublicKey


@dataclass(frozen=True, slots=True)
class UpstreamFigures:
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

    found: Counter = field(default_factory=Counter)
    absent: Counter = field(default_factory=Counter)
    unreachable: Counter = field(default_factory=Counter)
    malformed: Counter = field(default_factory=Counter)
    untrusted: Counter = field(default_factory=Counter)
    received_bytes: Counter = field(default_factory=Counter)
    breaker_open: Gauge = field(default_factory=Gauge)

    @classmethod
    def on(cls, metrics: Metrics, upstream: str) -> Self:
        """Count them there, under this name, which must not hold a password."""
        return cls(
            found=metrics.counter(families.UPSTREAM_REQUESTS, upstream, "found"),
            absent=metrics.counter(families.UPSTREAM_REQUESTS, upstream, "absent"),
            unreachable=metrics.counter(families.UPSTREAM_ERRORS, upstream, "unreachable"),
            malformed=metrics.counter(families.UPSTREAM_ERRORS, upstream, "protocol"),
            untrusted=metrics.counter(families.UPSTREAM_ERRORS, upstream, "untrusted"),
            received_bytes=metrics.counter(families.UPSTREAM_BYTES, upstream),
            breaker_open=metrics.gauge(families.UPSTREAM_BREAKER, upstream),
        )

    def failed(self, error: UpstreamError) -> None:
        """Count a request that ended with `error`."""
        (self.malformed if isinstance(error, UpstreamProtocolError) else self.unreachable).add()


class CountedUpstream:
    """An `Upstream` that is another one, counted.

    What it answers is counted here; whether that can be trusted, and whether it is asked at all, by whoever decides it.
    """

    def __init__(self, upstream: Upstream, figures: UpstreamFigures) -> None:
        self.figures = figures
        self._upstream = upstream

    @property
    def name(self) -> str:
        """See `Upstream`."""
        return self._upstream.name

    @property
    def priority(self) -> int:
        """See `Upstream`."""
        return self._upstream.priority

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """See `Upstream`."""
        return self._upstream.public_keys

    async def open(self, url: str, resume: Resume | None = None) -> Body | None:
        """See `Upstream.open`."""
        try:
            body = await self._upstream.open(url, resume)
        except UpstreamError as error:
            self.figures.failed(error)
            raise
        if body is None:
            self.figures.absent.add()
            return None
        self.figures.found.add()
        return replace(body, read=_CountedRead(body, self.figures))


@dataclass(frozen=True, slots=True)
class _CountedRead:
    body: Body
    figures: UpstreamFigures

    async def __call__(self) -> bytes:
        try:
            data = await self.body.read()
        except UpstreamError as error:
            self.figures.failed(error)
            raise
        self.figures.received_bytes.add(len(data))
        return data
