"""One thing done for each of many values, some at a time, where the first error is raised as it is.

A group of tasks raises a group of errors, for which no caller has a name: to a client it would be an error of ours, not
a storage that cannot be read at the moment.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from harmonia_py.errors import HarmoniaError

T = TypeVar("T")


async def side_by_side(do: Callable[[T], Awaitable[object]], values: Collection[T], *, at_once: int) -> None:
    """Await `do` for each of `values`, of which `at_once` are under way.

    Raises:
        HarmoniaError: the first that `do` raised; what else is under way is cancelled.
    """
    waiting = iter(values)

    async def work() -> None:
        for value in waiting:
            await do(value)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(at_once, len(values))):
                tasks.create_task(work())
    except* HarmoniaError as group:
        raise first_of(group) from None


def first_of(group: BaseExceptionGroup[HarmoniaError]) -> HarmoniaError:
    """The error that a group of tasks ended with."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, HarmoniaError)
    return found
