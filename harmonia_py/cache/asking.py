"""Asking several upstreams one question: who, in which order, for how long, and what their answers amount to."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import groupby
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from harmonia_py.cache.breaker import Breaker
from harmonia_py.cache.upstream import Upstream
from harmonia_py.cache.upstream_figures import CountedUpstream, UpstreamFigures
from harmonia_py.errors import UpstreamError, UpstreamUnreachable, UpstreamUntrusted

_log = logging.getLogger(__name__)

T = TypeVar("T")

# A tier of upstreams gets no less than this, however many others there are.
_LEAST_SHARE_SECONDS: Final = 0.1
# The log need not say of one upstream more often than that what is wrong with it.
_SAY_SECONDS: Final = 60.0


class Outcome(Enum):
    """What an upstream's answer is, when it is not the thing itself."""

    ABSENT = auto()  # it said so itself
    REFUSED = auto()  # it has something that must not be served
    UNKNOWN = auto()  # time-outs, refused connections, errors, garbage


class OnUnknown(Enum):
    """What a client is told when nobody can tell and there is no copy."""

    AUTO = "auto"  # an error while somebody may still answer, otherwise not found, so that work offline goes on
    NOT_FOUND = "not-found"
    ERROR = "error"


@dataclass(slots=True)
class Asked:
    """An upstream, how long it gets at most for an answer, and how it has fared."""

    upstream: Upstream
    figures: UpstreamFigures
    timeout: float | None = None
    breaker: Breaker = field(default_factory=Breaker)
    silent_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What an upstream has."""

    upstream: Upstream
    value: T


def tiers(upstreams: Iterable[Asked]) -> list[list[Asked]]:
    """Those of equal priority together, the smallest number first."""
    ordered = sorted(upstreams, key=lambda asked: asked.upstream.priority)
    return [list(group) for _, group in groupby(ordered, key=lambda asked: asked.upstream.priority)]


def share(remaining: float, tiers_left: int) -> float:
    """Seconds for the next tier: one that hangs must leave time for those behind it."""
    return max(_LEAST_SHARE_SECONDS, remaining / tiers_left)


def conclude(outcomes: Iterable[Outcome]) -> Outcome:
    """Absent only when every upstream that could have it said so itself."""
    return Outcome.UNKNOWN if Outcome.UNKNOWN in outcomes else Outcome.ABSENT


def is_not_found(on_unknown: OnUnknown, breakers_open: Sequence[bool]) -> bool:
    """Whether a client hears "not found" when nobody can tell, and not an error after which it asks again."""
    if on_unknown is OnUnknown.AUTO:
        return all(breakers_open)
    return on_unknown is OnUnknown.NOT_FOUND


class Nobody(UpstreamUnreachable):
    """No upstream could tell, in time or at all."""


class Panel:
    """All upstreams.

    Args:
        upstreams: in any order.
        budget: seconds that a question may take over all of them.
        on_unknown: what becomes of a question that nobody can answer.
        timeouts: seconds, by the names of those who get less than their share of the budget.
        offline: nobody is ever asked, and that nobody can tell means "not found".
        figures: where the conversations with the upstream of that name are counted.
        breakers: the breaker of the upstream of that name.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        *,
        budget: float,
        on_unknown: OnUnknown,
        timeouts: Mapping[str, float] = MappingProxyType({}),
        offline: bool = False,
        figures: Callable[[str], UpstreamFigures] = lambda _: UpstreamFigures(),
        breakers: Callable[[str], Breaker] = lambda _: Breaker(),
    ) -> None:
        self.offline = offline
        self.all = []
        for upstream in upstreams:
            counted = CountedUpstream(upstream, figures(upstream.name))
            breaker = breakers(upstream.name)
            self.all.append(Asked(counted, counted.figures, timeouts.get(upstream.name), breaker))
        self._tiers = tiers(self.all)
        self._budget = budget
        self._on_unknown = on_unknown

    @property
    def unknown_is_not_found(self) -> bool:
        """See `is_not_found`."""
        if self.offline:
            return True
        now = time.monotonic()
        return is_not_found(self._on_unknown, [asked.breaker.is_open(now) for asked in self.all])

    def show_breakers(self) -> None:
        """Bring the figures up to date with what other processes have learnt."""
        now = time.monotonic()
        for asked in self.all:
            asked.figures.breaker_open.set(asked.breaker.is_open(now))

    def find(self, name: str) -> Asked | None:
        """The upstream with this name."""
        return next((asked for asked in self.all if asked.upstream.name == name), None)

    async def ask(
        self, question: Callable[[Upstream], Awaitable[T | None]], discard: Callable[[T], object] = lambda _: None
    ) -> Answer[T] | None:
        """The first good answer; None when every upstream says that it has none.

        Args:
            question: put to one upstream; raises `UpstreamError`.
            discard: takes back an answer that came second.

        Raises:
            Nobody: at least one upstream that could have it cannot tell.
        """
        deadline = time.monotonic() + self._budget
        outcomes: list[Outcome] = []
        for number, tier in enumerate(self._tiers):
            seconds = share(deadline - time.monotonic(), len(self._tiers) - number)
            found = await self._ask_tier(tier, question, discard, seconds, outcomes)
            if found is not None:
                return found
        if conclude(outcomes) is Outcome.ABSENT:
            return None
        raise Nobody("no upstream that could have it answers")

    async def _ask_tier(
        self,
        tier: list[Asked],
        question: Callable[[Upstream], Awaitable[T | None]],
        discard: Callable[[T], object],
        seconds: float,
        outcomes: list[Outcome],
    ) -> Answer[T] | None:
        tasks = [
            asyncio.ensure_future(self.ask_one(asked, question, min(seconds, asked.timeout or seconds)))
            for asked in tier
        ]
        found: Answer[T] | None = None
        try:
            for next_done in asyncio.as_completed(tasks):
                answer = await next_done
                if isinstance(answer, Answer):
                    found = answer
                    return found
                outcomes.append(answer)
        finally:
            for task in tasks:
                task.cancel()
            for late in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(late, Answer) and late is not found:
                    discard(late.value)
        return None

    async def ask_one(
        self, asked: Asked, question: Callable[[Upstream], Awaitable[T | None]], seconds: float
    ) -> Answer[T] | Outcome:
        """Ask one upstream, unless its breaker is open, and note how it fared."""
        permit = None if self.offline else asked.breaker.admit(time.monotonic(), seconds)
        if permit is None:
            return Outcome.UNKNOWN
        try:
            async with asyncio.timeout(seconds):
                value = await question(asked.upstream)
        except asyncio.CancelledError:
            asked.breaker.abandoned(permit)
            raise
        except TimeoutError:
            asked.figures.unreachable.add()  # what was cancelled has not said so itself
            self.charge(asked, UpstreamUnreachable(f"no answer within {seconds:.1f} s"))
            return Outcome.UNKNOWN
        except UpstreamUntrusted as error:
            self._clear(asked)
            asked.figures.untrusted.add()
            self._say(asked, error)
            return Outcome.REFUSED
        except UpstreamError as error:
            self.charge(asked, error)
            return Outcome.UNKNOWN
        self._clear(asked)
        return Outcome.ABSENT if value is None else Answer(asked.upstream, value)

    def charge(self, asked: Asked, error: UpstreamError) -> None:
        """Note a failure of an upstream."""
        now = time.monotonic()
        asked.breaker.failed(now, error.retry_after if isinstance(error, UpstreamUnreachable) else None)
        asked.figures.breaker_open.set(asked.breaker.is_open(now))
        self._say(asked, error)

    def _clear(self, asked: Asked) -> None:
        asked.breaker.succeeded()
        asked.figures.breaker_open.set(0)

    def _say(self, asked: Asked, error: UpstreamError) -> None:
        now = time.monotonic()
        if now >= asked.silent_until:
            asked.silent_until = now + _SAY_SECONDS
            _log.warning("upstream %s: %s", asked.upstream.name, error)
