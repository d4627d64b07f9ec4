"""The validity of answers from the catalog: until something of their kind is changed, by any process."""

from collections.abc import Callable
from time import monotonic
from typing import Final

from harmonia_py.cache.validity import Epoch

# Ready answers may be given for so long after a change.
_LOOK_SECONDS: Final = 1.0


class Changes:
    """Epochs in which nothing of a kind is changed.

    Args:
        generation: a number that is another one after every change; None while one is under way.
        clock: seconds that only grow.
        rest: seconds from one look to the next, in which changes are one: where they come by the dozen, answers would
            never be ready. So long after a change may an epoch be taken that it ends, a second at most.
    """

    def __init__(
        self, generation: Callable[[], int | None], clock: Callable[[], float] = monotonic, *, rest: float = 0.0
    ) -> None:
        self._generation = generation
        self._clock = clock
        self._rest = rest
        self._look_at = 0.0
        self._seen: int | None = None
        self._epoch = Epoch(0.0)

    def epoch(self) -> Epoch:
        """The present epoch; during a change one that has ended. Take it before you read what is to be right in it."""
        now = self._clock()
        if now < self._look_at:
            return self._epoch
        generation = self._generation()
        if generation is None or generation != self._seen:
            self._epoch.until = 0.0
            self._epoch, self._seen = Epoch(0.0), generation
        if generation is not None:
            self._epoch.until = now + _LOOK_SECONDS
            self._look_at = now + self._rest
        return self._epoch
