"""Work on what clients push, done in steps, so that clients take turns however long the work of one of them is.

A few hundred kilobytes may be a NAR of gigabytes. The client that sent them may hold threads for minutes, also when it
has left; in turns, what others push is delayed by half a second each time, and not by all of it.
"""

import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from typing import Final, Generic, TypeVar

from msgspec import Struct

from harmonia_py.cache.source import Pause
from harmonia_py.runtime.threads import in_thread
from harmonia_py.runtime.turns import Turns

T = TypeVar("T")

Steps = Generator[Pause | None, None, T]
"""Computes for milliseconds between two steps, of which each is None, or a pause until there are more bytes."""

# Many times as long as a thread takes to be handed over.
_TURN_SECONDS: Final = 0.5


class _Over(Struct, Generic[T], frozen=True):
    result: T


class SteppingThreads:
    """Threads that draw steps.

    Args:
        threads: draw them.
        at_once: number of clients that are served at once, which is that of the threads.
    """

    def __init__(self, threads: Executor, at_once: int) -> None:
        self._threads = threads
        self._turns = Turns(at_once)

    async def run(self, client: str, steps: Steps[T], give_up: Callable[[], None]) -> T:
        """The result of `steps`, drawn in turns with those of other clients.

        Args:
            client: whose turns they are.
            steps: raise what they raise.
            give_up: lets the thread stop soon; called when the caller is cancelled, before it waits for that.
        """

        def turn() -> Pause | _Over[T] | None:
            end = time.monotonic() + _TURN_SECONDS
            while True:
                try:
                    pause = next(steps)
                except StopIteration as over:
                    return _Over(over.value)
                if pause is not None or time.monotonic() >= end:
                    return pause

        while True:
            async with self._turns.take(client):
                found = await in_thread(self._threads, turn, give_up=give_up)
            if isinstance(found, _Over):
                return found.result
            if found is not None:
                await found.wait()
