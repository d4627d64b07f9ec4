"""The things that a process holds open, each with the settings that it was made from.

A process has connections, threads, directories and the state of upstreams for as long as it runs; a configuration lasts
until the next reload. So each configuration selects from the open things: one with the same settings as before is
handed out again, any other is opened, and a thing that is not selected any more is closed once it is idle.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar, cast

from msgspec import Struct

from harmonia_py.runtime.lasting import lasting
from harmonia_py.runtime.tasks import end_task

# Within this time a request that got a cache before a reload replaced it has begun its download, or failed.
_ANSWER_SECONDS: Final = 30.0

T = TypeVar("T")
Open = Callable[[AsyncExitStack], Awaitable[T]]
"""Makes a thing, and pushes what closes it on the stack."""


def _is_idle(_thing: object) -> Awaitable[None]:
    return asyncio.sleep(0)


class _Held(Struct, frozen=True, eq=False):
    name: str
    settings: tuple[object, ...]
    thing: object
    resources: AsyncExitStack
    idle: Callable[[Any], Awaitable[object]]
    closes_at_once: bool


class Selection:
    """The things that one configuration selects. `Pools.select` makes it."""

    def __init__(self, before: dict[str, _Held]) -> None:
        self._before = before
        self.selected: dict[str, _Held] = {}
        self.opened: list[_Held] = []
        self.in_use = asyncio.Event()

    async def get(
        self,
        name: str,
        settings: tuple[object, ...],
        open_: Open[T],
        *,
        idle: Callable[[T], Awaitable[object]] = _is_idle,
        closes_at_once: bool = False,
    ) -> T:
        """The thing called `name`: what is open, when it was made from equal settings, or what `open_` makes.

        Args:
            name: one thing of a name is open for a configuration.
            settings: what the thing depends on: values, and other things, which are compared by identity.
            open_: makes it.
            idle: waits until nothing needs it, once a later configuration has not selected it.
            closes_at_once: it is closed, without waiting, when a later configuration does not select it.
        """
        held = self._before.get(name)
        if held is None or held.settings != settings:
            resources = AsyncExitStack()
            async with resources:
                thing = await open_(resources)
                held = _Held(name, settings, thing, resources.pop_all(), idle, closes_at_once)
            self.opened.append(held)
        self.selected[name] = held
        return cast("T", held.thing)

    def running(self, work: Callable[[], Coroutine[object, None, None]]) -> Open[asyncio.Task[None]]:
        """As `running`, for work that deletes: it begins once the configuration is the one in use."""

        async def begin() -> None:
            await self.in_use.wait()
            await work()

        return running(begin)


class Pools:
    """Everything that a process holds open. It belongs to one event loop."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        # What no configuration needs any more, and the tasks that wait until it is idle.
        self._left: list[_Held] = []
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def select(self) -> AsyncIterator[Selection]:
        """Select what a configuration needs. When the block fails, everything is as before.

        What was open before and has not been selected is closed in the background, when it is idle.
        """
        selection = Selection(self._held)
        try:
            yield selection
        except BaseException:
            await _close(selection.opened)
            raise
        left = [held for name, held in self._held.items() if selection.selected.get(name) is not held]
        self._held = selection.selected
        await _close([held for held in left if held.closes_at_once])
        selection.in_use.set()
        if later := [held for held in left if not held.closes_at_once]:
            self._left += later
            closing = asyncio.create_task(self._close_when_idle(later))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close everything, whether it is idle or not."""
        closing = set(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        await _close([*self._held.values(), *self._left])

    async def _close_when_idle(self, left: list[_Held]) -> None:
        await asyncio.sleep(_ANSWER_SECONDS)
        for held in left:
            await held.idle(held.thing)
        await _close(left)
        self._left = [held for held in self._left if held not in left]


async def _close(held: Iterable[_Held]) -> None:
    """Close these, each before what it was made of."""
    async with AsyncExitStack() as resources:
        for one in held:
            resources.push_async_callback(one.resources.aclose)


def owned(make: Callable[[], T], close: Callable[[T], Awaitable[object] | None]) -> Open[T]:
    """Opens what `make` returns and `close` ends."""

    async def open_(resources: AsyncExitStack) -> T:
        thing = make()

        async def end() -> None:
            ending = close(thing)
            if ending is not None:
                await ending

        resources.push_async_callback(end)
        return thing

    return open_


def entered(make: Callable[[], AbstractAsyncContextManager[T]]) -> Open[T]:
    """Opens what `make` returns by entering its context."""
    return lambda resources: resources.enter_async_context(make())


def running(work: Callable[[], Coroutine[object, None, None]]) -> Open[asyncio.Task[None]]:
    """Opens a task that does `work` in the background until it is cancelled, also after an error."""
    return owned(lambda: asyncio.create_task(lasting(work)), end_task)
