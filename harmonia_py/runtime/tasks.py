"""Tasks and futures that several callers wait for."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Work under a key that runs once at a time, for all callers that ask for it meanwhile.

    A caller that is cancelled leaves, and the work goes on.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        """The number of tasks under way."""
        return len(self._tasks)

    def get(self, key: K) -> "asyncio.Task[T] | None":
        """The task under way for `key`; None when there is none."""
        return self._tasks.get(key)

    def begin(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> "asyncio.Task[T]":
        """The task under way, which is begun if there is none."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(retrieve)
            task.add_done_callback(lambda _: self._tasks.pop(key))
        return task

    async def do(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the work. Raises what it raises."""
        return await asyncio.shield(self.begin(key, work))

    async def wait(self) -> None:
        """Return when the task under way has ended, however it ends."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def aclose(self) -> None:
        """Give up all tasks."""
        for task in self._tasks.values():
            task.cancel()
        await self.wait()


async def end_task(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task, if there is one, and return when it has ended, however it ends."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


def retrieve(done: "asyncio.Future[Any]") -> None:
    """Retrieve the error of a future that is done: otherwise asyncio reports it as never retrieved."""
    if not done.cancelled():
        done.exception()


def wake(future: "asyncio.Future[None]") -> None:
    """Wake the caller that waits for `future`, if it still waits."""
    if not future.done():
        future.set_result(None)
