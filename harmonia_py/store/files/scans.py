"""Slow work on whole trees of the store, such as listings: a few at a time, in threads, once for all callers."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from harmonia_py.runtime.threads import Pool, Threads

T = TypeVar("T")


class _Job(Struct):
    done: asyncio.Future[Any]
    waiting: int = 0


class Scans:
    """Runs calls that take long, a few at a time."""

    def __init__(self) -> None:
        self._threads = Threads(Pool.SCAN)
        self._jobs: dict[str, _Job] = {}

    def close(self) -> None:
        """End the threads; scans that have not begun are dropped."""
        self._threads.give_up()

    async def run(self, key: str, call: Callable[[], T]) -> T:
        """The result of `call`, or of the call that is under way for the `key`, which names the result.

        A call that no task waits for any more is not begun. Raises what the call raises.
        """
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(asyncio.get_running_loop().run_in_executor(self._threads, call))
            job.done.add_done_callback(lambda _: self._jobs.pop(key))
        job.waiting += 1
        try:
            return await asyncio.shield(job.done)
        finally:
            job.waiting -= 1
            if job.waiting == 0 and not job.done.done():
                job.done.cancel()
