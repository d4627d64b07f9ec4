"""The circuit breaker of an upstream: one that failed several times in a row is left alone for a while.

Functions of values decide how its state changes. The state itself is in memory that all workers share, so that a dead
upstream costs its time-outs once, not once in each of them, and one question of all of them finds out whether it is
back. Times are readings of the monotonic clock, which is the same for every process of a machine, in seconds.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.metrics.shared import Numbers, Row

FAILURES: Final = 3
OPEN_SECONDS: Final = 60.0
# Added to the time of a probe: a question is given up a little after its time is over.
_LATE_SECONDS: Final = 1.0


class BreakerState(Struct, frozen=True):
    """The state of a breaker: closed, or open after `FAILURES` in a row until one question, the probe, gets through.

    Attributes:
        failures: in a row, counted no further than to `FAILURES`.
        open_until: until when no process asks; 0 when all may.
        probe_until: until when the process that probes has time to say how it went; 0 when none probes.
    """

    failures: int = 0
    open_until: float = 0.0
    probe_until: float = 0.0


class Permit(Struct, frozen=True):
    """Allows one question. `probe_until` is not 0 when that question is the probe."""

    probe_until: float = 0.0


CLOSED: Final = BreakerState()


def is_open(state: BreakerState, now: float) -> bool:
    """Whether the upstream is out of use, up to the end of the probe that lets it in again."""
    return state.open_until > now or state.failures >= FAILURES


def admit(state: BreakerState, now: float, seconds: float) -> tuple[BreakerState, Permit | None]:
    """The state after a question of at most `seconds` was admitted, with its permit; None: it may not be asked."""
    if state.open_until > now:
        return state, None
    if state.failures < FAILURES:
        return state, Permit()
    if state.probe_until > now:
        return state, None
    probing = replace(state, probe_until=now + seconds + _LATE_SECONDS)
    return probing, Permit(probing.probe_until)


def failed(state: BreakerState, now: float, rest: float | None = None) -> BreakerState:
    """The state after a failure. `rest`: seconds for which the upstream asked to be left alone, at most a minute."""
    if state.failures >= FAILURES and state.open_until > now:
        return state  # asked before it was known
    failures = min(state.failures + 1, FAILURES)
    if failures >= FAILURES:
        return BreakerState(failures, now + OPEN_SECONDS)
    return BreakerState(failures, max(state.open_until, now + min(rest or 0.0, OPEN_SECONDS)))


def abandoned(state: BreakerState, permit: Permit) -> BreakerState:
    """The state after a question was given up without an answer: if it was the probe, another question may be."""
    if permit.probe_until and permit.probe_until == state.probe_until:
        return replace(state, probe_until=0.0)
    return state


class Breaker:
    """The breaker of one upstream.

    Args:
        row: of shared memory, with its state; None for a state that no other process shares.
    """

    def __init__(self, row: Row | None = None) -> None:
        self._row = row or Row.alone()

    @property
    def state(self) -> BreakerState:
        """The present state."""
        return _parse(self._row.read())

    def is_open(self, now: float) -> bool:
        """Whether the upstream is out of use."""
        return is_open(self.state, now)

    def may_admit(self, now: float) -> bool:
        """Whether `admit` would let a question through, which changes nothing."""
        return admit(self.state, now, 0.0)[1] is not None

    def admit(self, now: float, seconds: float) -> Permit | None:
        """A permit for a question of at most so many seconds; None: do not ask. Then call one of the next three."""
        permit = admit(self.state, now, seconds)[1]
        if permit is None or not permit.probe_until:
            return permit
        # Two processes may want to probe: `change` decides again under the lock, so only one of them does.
        permit = None

        def change(state: BreakerState) -> BreakerState:
            nonlocal permit
            changed, permit = admit(state, now, seconds)
            return changed

        self._change(change)
        return permit

    def succeeded(self) -> None:
        """Note that the upstream answered, whatever the answer is."""
        if self.state != CLOSED:  # as it is nearly always, and then nothing needs to be written
            self._change(lambda _: CLOSED)

    def failed(self, now: float, rest: float | None = None) -> None:
        """Note that the upstream did not answer; `rest`: seconds for which it asked to be left alone, if it did."""
        self._change(lambda state: failed(state, now, rest))

    def abandoned(self, permit: Permit) -> None:
        """Note that the question was given up before its answer came."""
        if permit.probe_until:
            self._change(lambda state: abandoned(state, permit))

    def _change(self, change: Callable[[BreakerState], BreakerState]) -> None:
        # A change that is lost does no harm: the next failure counts, the next answer closes it, a probe has its time.
        self._row.change(lambda numbers: _format(change(_parse(numbers))))


def _parse(numbers: Numbers) -> BreakerState:
    failures, open_until, probe_until = numbers
    return BreakerState(int(failures), open_until, probe_until)


def _format(state: BreakerState) -> Numbers:
    return float(state.failures), state.open_until, state.probe_until
