"""A worker with more connections than another one waits a moment before it accepts, so that the other one does.

It ends that for a while when it waited in vain: another worker that is stopped or stuck keeps its few connections and
takes no more, and a process that has the number of a worker that was killed takes none at all.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from harmonia_py.metrics.loads import Load

# So many in a row that no other worker has taken are no accident: one that is well wakes up within a moment. With the
# pause below, connections wait eight moments in each second for a worker that takes none.
_IN_VAIN: Final = 8
_PAUSE_SECONDS: Final = 1.0


class Leaving(Struct, eq=False):
    """Tells whether a worker leaves the next connection to another one.

    Attributes:
        load: how many connections it has, and whether others have fewer.
        clock: seconds.
    """

    load: Load
    clock: Callable[[], float]
    _in_vain: int = 0
    _again_at: float = 0.0

    def is_due(self) -> bool:
        """Whether the next connection is left for a moment."""
        return self.clock() >= self._again_at and self.load.exceeds_another()

    def note(self, *, is_taken: bool) -> None:
        """Note whether another worker has taken a connection that was left."""
        self._in_vain = 0 if is_taken else self._in_vain + 1
        if self._in_vain == _IN_VAIN:
            self._in_vain = 0
            self._again_at = self.clock() + _PAUSE_SECONDS
