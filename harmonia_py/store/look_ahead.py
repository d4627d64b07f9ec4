"""The paths that a client will ask for next: the references of a path, read ahead in one question.

A client that has the narinfo of a path asks for those of its references. One by one, each takes two ways to a thread
and back, and a look at the disk; together, a closure of 300 paths takes 10 milliseconds of a thread.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.path_info import PathInfo

# Paths that are read for one that is asked for: the closure of most programs.
_MOST: Final = 512
# The part of the time that is spent on it at most: clients need not ask for the paths that were read.
_SHARE: Final = 0.25


@runtime_checkable
class Ahead(Protocol):
    """A store that tells of many paths in one question."""

    async def beneath(self, info: PathInfo, limit: int) -> Sequence[PathInfo]:
        """Facts about at most `limit` of the paths in the closure of a path; none where each takes a question.

        Raises:
            DaemonError: the store cannot tell.
        """


class LookAhead(Struct, eq=False):
    """Reads ahead, one path's closure at a time.

    Attributes:
        store: is asked.
        are_there: selects the paths whose names are in the store directory.
        clock: seconds that only grow.
    """

    store: Ahead
    are_there: Callable[[Sequence[PathInfo]], Awaitable[Sequence[PathInfo]]]
    clock: Callable[[], float]
    _reading: asyncio.Task[None] | None = None
    _not_before: float = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether `begin` would be of use now."""
        return self._reading is None and self.clock() >= self._not_before

    def begin(self, info: PathInfo, remember: Callable[[Sequence[PathInfo]], None]) -> None:
        """Read what the path refers to, and give it to `remember`, in the background."""
        self._reading = asyncio.get_running_loop().create_task(self._read(info, remember))

    def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, info: PathInfo, remember: Callable[[Sequence[PathInfo]], None]) -> None:
        began = self.clock()
        try:
            found = await self.store.beneath(info, _MOST)
            if found:
                remember(await self.are_there(found))
        except HarmoniaError:
            pass  # the next request asks the store, which then says what is wrong
        finally:
            self._reading = None
            self._not_before = self.clock() + (self.clock() - began) / _SHARE
