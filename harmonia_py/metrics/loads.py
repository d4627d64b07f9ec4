"""How many connections each worker has, in memory that all share, so that the one with the fewest takes the next.

The kernel wakes every worker that waits for a connection, and the first one gets it. On two cores, beside a client that
keeps one of them busy, that is the same one again and again: all four downloads of a client were sent by one process.
"""

import mmap
import os
from typing import Final

_PROCESS: Final = 0
_CONNECTIONS: Final = 1
_TAKEN: Final = 2
_COLUMNS: Final = 3
_WORD: Final = 8


class Load:
    """The load of one worker, with its view of the others' loads."""

    __slots__ = ("_cells", "_start")

    def __init__(self, cells: "memoryview[int]", start: int) -> None:
        self._cells = cells
        self._start = start

    @property
    def connections(self) -> int:
        """How many the worker has."""
        return self._cells[self._start + _CONNECTIONS]

    def accepts(self, connections: int) -> None:
        """Let the others know that this process accepts connections, and has so many."""
        self._cells[self._start + _CONNECTIONS] = connections
        self._cells[self._start + _PROCESS] = os.getpid()

    def takes_one(self) -> None:
        """Let the others know that this process has taken a connection from the sockets that all of them wait on."""
        self._cells[self._start + _TAKEN] += 1

    def taken_by_others(self) -> int:
        """How many connections the other workers have taken: only whether that changes tells something."""
        cells = self._cells
        return sum(cells[start + _TAKEN] for start in range(0, len(cells), _COLUMNS)) - cells[self._start + _TAKEN]

    def ends(self) -> None:
        """Let the others know that it accepts no more."""
        self._cells[self._start + _PROCESS] = 0

    def exceeds_another(self) -> bool:
        """Whether another worker that accepts has fewer."""
        cells, ours = self._cells, self.connections
        return any(
            cells[start + _CONNECTIONS] < ours and lives(cells[start + _PROCESS])
            for start in range(0, len(cells), _COLUMNS)
        )


class Loads:
    """The loads of all workers, by the numbers of their slots. Make it before the fork."""

    def __init__(self, slots: int) -> None:
        self._cells: memoryview[int] = memoryview(mmap.mmap(-1, slots * _COLUMNS * _WORD)).cast("q")

    def of(self, slot: int) -> Load:
        """The load of one worker."""
        return Load(self._cells, slot * _COLUMNS)


def lives(process: int) -> bool:
    """Whether there is such a process: one that was killed has not said that it ends."""
    if not process:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
