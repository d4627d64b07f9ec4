"""The circuit breaker of an upstream: whoever failed several times in a row is left alone for a while. No I/O."""

from typing import Final

FAILURES: Final = 3
OPEN_SECONDS: Final = 60.0


class Breaker:
    """Closed at first. Open after so many failures in a row; when its time is over, one question is let through.

    Times are readings of any one monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._open_until = 0.0
        self._probing = False

    def is_open(self, now: float) -> bool:
        """Whether the upstream is out of use, up to the end of the probe that lets it in again."""
        return self._open_until > now or self._failures >= FAILURES

    def admit(self, now: float) -> bool:
        """Whether a question may be asked. Each that may ends with `succeeded`, `failed` or `abandoned`."""
        if self._open_until > now:
            return False
        if self._failures < FAILURES:
            return True
        if self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """The upstream answered, whatever it said."""
        self._failures = 0
        self._open_until = 0.0
        self._probing = False

    def failed(self, now: float, rest: float | None = None) -> None:
        """It did not. `rest` is for how long it asked to be left alone; at most a minute of that is granted."""
        self._failures += 1
        self._probing = False
        if self._failures >= FAILURES:
            self._open_until = now + OPEN_SECONDS
        elif rest is not None:
            self._open_until = now + min(rest, OPEN_SECONDS)

    def abandoned(self) -> None:
        """Nobody waits for the answer any more, so nothing is known."""
        self._probing = False
