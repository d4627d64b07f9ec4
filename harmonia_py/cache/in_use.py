"""Counts of uses, so that a thing can be closed once it has none."""

import asyncio
from collections.abc import Callable


class InUse:
    """The number of uses of a thing. It belongs to one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> Callable[[], None]:
        """Count one more use; the returned function, called once, ends it."""
        self._count += 1
        self._none.clear()
        return self._end

    async def idle(self) -> None:
        """Wait until there is no use."""
        await self._none.wait()

    def _end(self) -> None:
        self._count -= 1
        if self._count == 0:
            self._none.set()
