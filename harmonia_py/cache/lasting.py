"""How long an answer stays right: up to a time, and while what it was made from has not changed.

Whoever has an answer at hand need not know what that is: it asks `Lasting.holds`, which costs two comparisons. Whoever
makes answers looks now and then whether something has changed (`Watch`), and so renews or ends all of them at once.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic, time_ns
from typing import Final

# The kernel's clock for files ticks every few milliseconds: what changes twice within one tick shows one change.
_TICK_SECONDS: Final = 0.1


class Standing:
    """Something that had not changed when somebody looked.

    Attributes:
        until: when it has to be looked at again, by `time.monotonic`; in the past once it has changed.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


@dataclass(frozen=True, slots=True)
class Lasting:
    """How long something is right.

    Attributes:
        expires: never after this time, by `time.monotonic`.
        standings: nor while one of these has to be looked at again.
    """

    expires: float
    standings: tuple[Standing, ...]

    def holds(self, now: float) -> bool:
        """Whether it is right still."""
        if now >= self.expires:
            return False
        for standing in self.standings:  # noqa: SIM110  # `all` takes three times as long, for each request
            if now >= standing.until:
                return False
        return True


def together(parts: Iterable[Lasting | None]) -> Lasting | None:
    """How long what is made of all these is right; None, for nobody knows, when one is."""
    expires: list[float] = []
    standings: list[Standing] = []
    for part in parts:
        if part is None:
            return None
        expires.append(part.expires)
        standings += part.standings
    return Lasting(min(expires), tuple(standings)) if expires else None


class Watch:
    """Tells whether something has changed, by a look every `seconds` at most.

    Args:
        modified: looks when it changed last, in nanoseconds since the epoch.
        seconds: for so long a change may go unnoticed.
        clock: seconds that only grow.
    """

    def __init__(
        self, modified: Callable[[], Awaitable[int]], *, seconds: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._modified = modified
        self._seconds = seconds
        self._clock = clock
        self._seen: int | None = None
        self._standing = Standing(0.0)

    async def standing(self) -> Standing:
        """What stands now: the same as before, if nothing has changed since. Raises what `modified` raises."""
        now = self._clock()
        if now < self._standing.until:
            return self._standing
        modified = await self._modified()
        until = now + self._seconds
        if modified == self._seen:
            self._standing.until = max(self._standing.until, until)
            return self._standing
        self.look_again()
        # Of a change just now nobody can tell whether it was the last of its tick, so it is not seen as done.
        self._seen = modified if abs(time_ns() - modified) > _TICK_SECONDS * 1e9 else None
        self._standing = Standing(until)
        return self._standing

    def look_again(self) -> None:
        """What stands is not to be relied on without another look."""
        self._standing.until = 0.0
