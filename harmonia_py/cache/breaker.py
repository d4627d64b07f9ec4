"""The circuit breaker of an upstream: whoever failed several times in a row is left alone for a while.

What happens to its state are functions of values. The state itself is in memory that all workers share: what a dead
upstream costs, it costs once and not once for each of them, and one question over all of them finds out whether it is
back. Times are readings of the monotonic clock, which is the same for every process of a machine, in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from harmonia_py.metrics.shared import Numbers, Row

FAILURES: Final = 3
OPEN_SECONDS: Final = 60.0
# A question is given up a little later than its time is over.
_LATE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class BreakerState:
    """Closed at first. Open after so many failures in a row; when its time is over, one question is let through.

    Attributes:
        failures: in a row, counted no further than to `FAILURES`.
        open_until: nobody is to ask before; 0 when everybody may.
        probe_until: somebody tries, and is taken for dead when nothing has come of it by then; 0 when nobody does.
    """

    failures: int = 0
    open_until: float = 0.0
    probe_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Allows one question. `probe_until` is not 0 when it is the one that finds out."""

    probe_until: float = 0.0


CLOSED: Final = BreakerState()


def is_open(state: BreakerState, now: float) -> bool:
    """Whether the upstream is out of use, up to the end of the probe that lets it in again."""
    return state.open_until > now or state.failures >= FAILURES


def admit(state: BreakerState, now: float, seconds: float) -> tuple[BreakerState, Permit | None]:
    """Whether a question may be asked that takes at most so many seconds."""
    if state.open_until > now:
        return state, None
    if state.failures < FAILURES:
        return state, Permit()
    if state.probe_until > now:
        return state, None
    probing = replace(state, probe_until=now + seconds + _LATE_SECONDS)
    return probing, Permit(probing.probe_until)


def failed(state: BreakerState, now: float, rest: float | None = None) -> BreakerState:
    """It did not answer. `rest` is for how long it asked to be left alone; at most a minute of that is granted."""
    if state.failures >= FAILURES and state.open_until > now:
        return state  # asked before it was known
    failures = min(state.failures + 1, FAILURES)
    if failures >= FAILURES:
        return BreakerState(failures, now + OPEN_SECONDS)
    return BreakerState(failures, max(state.open_until, now + min(rest or 0.0, OPEN_SECONDS)))


def abandoned(state: BreakerState, permit: Permit) -> BreakerState:
    """Nobody waits for the answer any more, so nothing is known; if it was the probe, another may be."""
    if permit.probe_until and permit.probe_until == state.probe_until:
        return replace(state, probe_until=0.0)
    return state


class Breaker:
    """The breaker of one upstream.

    Args:
        row: where its state is; nobody else sees it unless it is given.
    """

    def __init__(self, row: Row | None = None) -> None:
        self._row = row or Row.alone()

    @property
    def state(self) -> BreakerState:
        """What it is now."""
        return _parse(self._row.read())

    def is_open(self, now: float) -> bool:
        """See the function."""
        return is_open(self.state, now)

    def admit(self, now: float, seconds: float) -> Permit | None:
        """See the function. Each question that may be asked ends with `succeeded`, `failed` or `abandoned`."""
        permit = admit(self.state, now, seconds)[1]
        if permit is None or not permit.probe_until:
            return permit
        # Somebody else may be about to probe as well: who has the lock decides anew, and who cannot have it does not.
        permit = None

        def change(state: BreakerState) -> BreakerState:
            nonlocal permit
            changed, permit = admit(state, now, seconds)
            return changed

        self._change(change)
        return permit

    def succeeded(self) -> None:
        """The upstream answered, whatever it said."""
        if self.state != CLOSED:  # as it is nearly always, and then nothing needs to be written
            self._change(lambda _: CLOSED)

    def failed(self, now: float, rest: float | None = None) -> None:
        """See the function."""
        self._change(lambda state: failed(state, now, rest))

    def abandoned(self, permit: Permit) -> None:
        """See the function."""
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
