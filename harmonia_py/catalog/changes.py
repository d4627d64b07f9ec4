"""The validity of answers from the catalog: until something of their kind is changed, by any process."""

from collections.abc import Callable
from time import monotonic
from typing import Final

from harmonia_py.cache.validity import Epoch

# Ready answers may be given for so long after a change. A look at the number of changes costs next to nothing.
_LOOK_SECONDS: Final = 1.0


class Changes:
    """Epochs in which nothing of a kind is changed.

    Args:
        generation: a number that is another one after every change; None while one is under way.
        clock: seconds that only grow.
    """

    def __init__(self, generation: Callable[[], int | None], clock: Callable[[], float] = monotonic) -> None:
        self._generation = generation
        self._clock = clock
        self._seen: int | None = None
        self._epoch = Epoch(0.0)

    def epoch(self) -> Epoch:
        """The present epoch; during a change one that has ended. Take it before you read what is to be right in it."""
        generation = self._generation()
        if generation is None or generation != self._seen:
            self._epoch.until = 0.0
            self._epoch, self._seen = Epoch(0.0), generation
        if generation is not None:
            self._epoch.until = self._clock() + _LOOK_SECONDS
        return self._epoch
