"""Questions to several upstreams: the choice of those that are asked, their order, and the time for each.

An upstream is charged with what it does, never with what happens here: a question that waits for its turn has not been
asked yet, and when it never gets one the client hears that this server is overloaded.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from msgspec import Struct, field

from harmonia_py.errors import UpstreamError, UpstreamUnreachable, UpstreamUntrusted
from harmonia_py.mirror.breaker import Breaker
from harmonia_py.mirror.outcome import OnUnknown, Outcome, check_absent, is_not_found
from harmonia_py.mirror.upstream import Upstream
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

T = TypeVar("T")

# A tier of upstreams gets no less than this, however many others there are.
_LEAST_SHARE_SECONDS: Final = 0.1
# Each takes a connection and a descriptor until it is answered; downloads that have begun are counted elsewhere. At a
# tenth of a second for an answer these are a thousand narinfos a second.
_QUESTIONS_AT_ONCE: Final = 96


class UpstreamState(Struct):
    """An upstream, how long it gets at most for an answer, how it has fared, and how much it is asked at once."""

    upstream: Upstream
    timeout: float | None = None
    breaker: Breaker = field(default_factory=Breaker)
    warning: RareWarning = field(default_factory=lambda: RareWarning(_log))
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_QUESTIONS_AT_ONCE))

    def say(self, error: UpstreamError) -> None:
        """Say what is wrong with it."""
        self.warning.say("upstream %s: %s", self.upstream.name, error)


class Answer(Struct, Generic[T], frozen=True):
    """The answer of an upstream."""

    upstream: Upstream
    value: T


def tiers(upstreams: Iterable[UpstreamState]) -> list[list[UpstreamState]]:
    """The upstreams in tiers of equal priority, the smallest number first."""
    ordered = sorted(upstreams, key=lambda state: state.upstream.priority)
    return [list(group) for _, group in groupby(ordered, key=lambda state: state.upstream.priority)]


def share(remaining: float, tiers_left: int) -> float:
    """Seconds for the next tier: one that hangs must leave time for those behind it."""
    return max(_LEAST_SHARE_SECONDS, remaining / tiers_left)


class Upstreams:
    """All upstreams.

    Args:
        upstreams: in any order.
        budget: seconds that a question may take over all of them.
        on_unknown: what becomes of a question that no upstream can answer.
        timeouts: seconds, by the names of the upstreams that get less than their share of the budget.
        offline: no upstream is ever asked, and what none can tell is "not found".
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
        breakers: Callable[[str], Breaker] = lambda _: Breaker(),
    ) -> None:
        self.offline = offline
        self.all = [UpstreamState(one, timeouts.get(one.name), breakers(one.name)) for one in upstreams]
        self._tiers = tiers(self.all)
        self._budget = budget
        self._on_unknown = on_unknown

    @property
    def unknown_is_not_found(self) -> bool:
        """Whether a client hears "not found" at this moment when no upstream can tell."""
        if self.offline:
            return True
        now = time.monotonic()
        return is_not_found(self._on_unknown, [state.breaker.is_open(now) for state in self.all])

    def show_breakers(self) -> None:
        """Bring the figures up to date with what other processes have learnt."""
        now = time.monotonic()
        for state in self.all:
            state.upstream.metrics.breaker_open.set(state.breaker.is_open(now))

    def find(self, name: str) -> UpstreamState | None:
        """The upstream with this name."""
        return next((state for state in self.all if state.upstream.name == name), None)

    async def ask(
        self,
        question: Callable[[Upstream], Awaitable[T | None]],
        discard: Callable[[T], object] = lambda _: None,
        *,
        is_of_file: bool = False,
        names: Collection[str] | None = None,
    ) -> Answer[T] | None:
        """The first good answer; None when every upstream says that it has none.

        Args:
            question: put to one upstream; raises `UpstreamError`.
            discard: takes back an answer that came second.
            is_of_file: as in `ask_one`.
            names: of the upstreams that are asked; None for all.

        Raises:
            NoUpstreamAnswered: at least one upstream that could have it cannot tell.
            Overloaded: at least one that could have it was not asked.
        """
        deadline = time.monotonic() + self._budget
        outcomes: list[Outcome] = []
        for number, tier in enumerate(self._tiers):
            seconds = share(deadline - time.monotonic(), len(self._tiers) - number)
            questions = [
                self.ask_one(state, question, min(seconds, state.timeout or seconds), is_of_file=is_of_file)
                for state in tier
                if names is None or state.upstream.name in names
            ]
            found = await _first_answer(questions, discard, outcomes)
            if found is not None:
                return found
        check_absent(outcomes, "no upstream that could have it answers")
        return None

    async def ask_one(
        self,
        state: UpstreamState,
        question: Callable[[Upstream], Awaitable[T | None]],
        seconds: float,
        *,
        is_of_file: bool = False,
    ) -> Answer[T] | Outcome:
        """Ask one upstream, unless its breaker is open, and note how it fared.

        Args:
            state: the upstream.
            question: as in `ask`.
            seconds: for the answer, and as many before for the question's turn.
            is_of_file: whether it is about one file, such as a NAR or a log. Clients choose which, and caches fail at
                some: a status in answer says nothing of what else the upstream has, so only its silence is charged.
        """
        if self.offline or not state.breaker.may_admit(time.monotonic()):
            return Outcome.UNKNOWN
        try:
            async with asyncio.timeout(seconds if state.turns.locked() else None):
                await state.turns.acquire()
        except TimeoutError:
            return Outcome.NOT_ASKED
        try:
            return await self._ask_now(state, question, seconds, is_of_file)
        finally:
            state.turns.release()

    async def _ask_now(
        self,
        state: UpstreamState,
        question: Callable[[Upstream], Awaitable[T | None]],
        seconds: float,
        is_of_file: bool,  # noqa: FBT001  # as `ask_one` got it
    ) -> Answer[T] | Outcome:
        permit = state.breaker.admit(time.monotonic(), seconds)
        if permit is None:
            return Outcome.UNKNOWN
        try:
            async with asyncio.timeout(seconds):
                value = await question(state.upstream)
        except asyncio.CancelledError:
            state.breaker.abandoned(permit)
            raise
        except TimeoutError:
            state.upstream.metrics.unreachable.add()  # what was cancelled has not said so itself
            self.charge(state, UpstreamUnreachable(f"no answer within {seconds:.1f} s"))
            return Outcome.UNKNOWN
        except UpstreamUntrusted as error:
            self._clear(state)
            state.upstream.metrics.untrusted.add()
            state.say(error)
            return Outcome.REFUSED
        except UpstreamError as error:
            if is_of_file and _is_of_that_file_alone(error):
                state.breaker.abandoned(permit)
                state.say(error)
            else:
                self.charge(state, error)
            return Outcome.UNKNOWN
        self._clear(state)
        return Outcome.ABSENT if value is None else Answer(state.upstream, value)

    def charge(self, state: UpstreamState, error: UpstreamError) -> None:
        """Note a failure of an upstream."""
        now = time.monotonic()
        state.breaker.failed(now, error.retry_after if isinstance(error, UpstreamUnreachable) else None)
        state.upstream.metrics.breaker_open.set(state.breaker.is_open(now))
        state.say(error)

    def _clear(self, state: UpstreamState) -> None:
        state.breaker.succeeded()
        state.upstream.metrics.breaker_open.set(0)


def _is_of_that_file_alone(error: UpstreamError) -> bool:
    """Whether an upstream that failed at one file may be as good as ever for others."""
    asks_for_rest = isinstance(error, UpstreamUnreachable) and error.retry_after is not None
    return error.status is not None and not asks_for_rest


async def _first_answer(
    questions: Sequence[Coroutine[None, None, Answer[T] | Outcome]],
    discard: Callable[[T], object],
    outcomes: list[Outcome],
) -> Answer[T] | None:
    """The first answer of several that are asked at the same time; `outcomes` takes what the others before it said."""
    if len(questions) == 1:  # a task of its own would take a hundredth of what a small NAR takes
        answer = await questions[0]
        if isinstance(answer, Answer):
            return answer
        outcomes.append(answer)
        return None
    tasks = [asyncio.ensure_future(question) for question in questions]
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
