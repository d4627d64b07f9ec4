"""Slow work on whole trees of the store, such as listings: a few at a time, in threads, once for all callers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from msgspec import Struct

from harmonia_py.runtime.tasks import retrieve
from harmonia_py.runtime.threads import Pool, Threads

T = TypeVar("T")


class _Job(Struct):
    call: Future[Any]
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

        A call that no task waits for any more is not begun; one that has begun goes on, and is that of the next task.
        Raises what the call raises.
        """
        job = self._jobs.get(key)
        if job is None:
            future = self._threads.submit(call)
            job = self._jobs[key] = _Job(future, asyncio.wrap_future(future))
            job.done.add_done_callback(retrieve)
            job.done.add_done_callback(lambda _: self._forget(key, job))
        job.waiting += 1
        try:
            return await asyncio.shield(job.done)
        finally:
            job.waiting -= 1
            if job.waiting == 0 and job.call.cancel():
                # At once: a task that asks next, before `done` is, is not to wait for a call that will not begin.
                self._forget(key, job)

    def _forget(self, key: str, job: _Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]
