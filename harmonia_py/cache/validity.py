"""How long an answer may be repeated: up to a time, and only while the store or catalog it came from is unchanged.

An answer that is ready to be given again needs `Validity.holds` alone, which costs two comparisons. A `ChangeDetector`
looks now and then whether something has changed, and so extends or ends all answers that were made from it at once.
"""

from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic, time_ns
from typing import Final

from msgspec import Struct, field

# The kernel's clock for files ticks every few milliseconds: two changes within one tick look like one.
_TICK_SECONDS: Final = 0.1


class Epoch:
    """A time in which something does not change: a store, a directory.

    Attributes:
        until: the epoch is known to last until then, by `time.monotonic`; in the past once it has ended.
    """

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        self.until = until


class Validity(Struct, frozen=True):
    """The time for which an answer is right.

    Attributes:
        expires: never after this time, by `time.monotonic`.
        epochs: nor when one of these is not known to last.
    """

    expires: float
    epochs: tuple[Epoch, ...]

    def holds(self, now: float) -> bool:
        """Whether it is right still."""
        if now >= self.expires:
            return False
        for epoch in self.epochs:  # noqa: SIM110  # `all` takes three times as long, for each request
            if now >= epoch.until:
                return False
        return True


ALWAYS: Final = Validity(inf, ())
"""The validity of an answer that never changes."""


def together(*parts: Validity | None) -> Validity | None:
    """The validity of an answer that is made of parts; None, for unknown, when that of one part is."""
    expires: list[float] = []
    epochs: list[Epoch] = []
    for part in parts:
        if part is None:
            return None
        expires.append(part.expires)
        epochs += part.epochs
    return Validity(min(expires), tuple(epochs)) if expires else None


class ChangeDetector(Struct, eq=False):
    """Tells whether something has changed, by a look every `seconds` at most.

    Attributes:
        modified: a number that is another one after every change: a time in nanoseconds since the epoch, after which a
            change may follow within the same tick of the clock, or a count of changes.
        seconds: for so long a change may go unnoticed.
        clock: seconds that only grow.
    """

    modified: Callable[[], Awaitable[int]]
    seconds: float
    clock: Callable[[], float] = monotonic
    _seen: int | None = None
    _epoch: Epoch = field(default_factory=lambda: Epoch(0.0))

    async def epoch(self) -> Epoch:
        """The present epoch: the object returned before, if nothing has changed since.

        Raises what `modified` raises.
        """
        now = self.clock()
        if now < self._epoch.until:
            return self._epoch
        modified = await self.modified()
        until = now + self.seconds
        if modified == self._seen:
            self._epoch.until = max(self._epoch.until, until)
            return self._epoch
        self.look_again()
        # A change just now may not have been the last of its tick, so the next look takes it for a change again.
        self._seen = modified if abs(time_ns() - modified) > _TICK_SECONDS * 1e9 else None
        self._epoch = Epoch(until)
        return self._epoch

    def look_again(self) -> None:
        """Rely on the present epoch no more without another look."""
        self._epoch.until = 0.0
