"""Bytes of an object on their way: the event loop fetches them; the threads that send take those that are here.

No thread waits for a slow bucket: it costs memory alone, which is bounded for each download.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from typing import Final

from harmonia_py.cache.source import Pause
from harmonia_py.errors import HarmoniaError, StorageError

# Bytes that are fetched at a time, while few downloads run and while many do. A portion is well below what libc gives
# back to the system at once (`wiring/tuning`): otherwise each would be a mapping of its own, whose pages are cleared.
_PORTION: Final = 256 * 1024
_SMALL_PORTION: Final = 128 * 1024
_MANY: Final = 64
# Portions that may wait for a thread: with one the network would stand still while the client is sent to.
_AHEAD: Final = 12
_AHEAD_OF_MANY: Final = 1
_PAUSE_SECONDS: Final = 60.0

Fetch = Callable[[int], Awaitable[AsyncIterator[bytes]]]
"""Begins to fetch, in portions of about so many bytes."""


class Arrivals:
    """All arriving objects of one process. It belongs to the event loop in which it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def pieces(self, size: int, fetch: Fetch) -> Generator[bytes | Pause, None, None]:
        """The `size` bytes that `fetch` gives. A thread draws them.

        Raises:
            StorageError: they cannot be had, or are fewer or more.
        """
        arriving = _Arriving(self._loop, size)
        self._loop.call_soon_threadsafe(self._begin, arriving, fetch)
        try:
            while (piece := arriving.take()) is not None:
                yield piece
        finally:
            arriving.is_wanted = False
            with suppress(RuntimeError):  # the loop has ended, and every task with it
                self._loop.call_soon_threadsafe(arriving.stop)

    async def aclose(self) -> None:
        """Give up all arriving objects."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, arriving: "_Arriving", fetch: Fetch) -> None:
        many = len(self._tasks) >= _MANY
        arriving.ahead = _AHEAD_OF_MANY if many else _AHEAD
        task = arriving.task = self._loop.create_task(arriving.run(fetch, _SMALL_PORTION if many else _PORTION))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not arriving.is_wanted:
            task.cancel()


class _Arriving:
    """One download: a queue between the event loop, which fills it, and the thread that draws."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_wanted = True
        self.ahead = _AHEAD
        self._loop = loop
        self._left = size
        self._portions: deque[bytes] = deque()
        self._is_over = False
        self._error: HarmoniaError | None = None
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    def take(self) -> bytes | Pause | None:
        """The bytes that are here, a pause until more are, or None at the end; a thread calls it."""
        is_over = self._is_over  # read before the queue: once this is set, the last bytes are in the queue
        try:
            portion = self._portions.popleft()
        except IndexError:
            if not is_over:
                late = StorageError("the bucket does not answer in time")
                return Pause.until_done(self._more, self._loop, _PAUSE_SECONDS, late)
            if self._error is not None:
                raise self._error from None
            return None
        if len(self._portions) < self.ahead:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._taken.set)
        return portion

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def run(self, fetch: Fetch, portion_size: int) -> None:
        try:
            async for portion in await fetch(portion_size):
                self._left -= len(portion)
                if self._left < 0:
                    raise StorageError("the bucket sends more of an object than it has")  # noqa: TRY301
                self._portions.append(portion)
                self._arrived.set()
                while len(self._portions) >= self.ahead:
                    self._taken.clear()
                    await self._taken.wait()
            if self._left:
                raise StorageError("the bucket sends less of an object than it has")  # noqa: TRY301
        except HarmoniaError as error:
            self._error = error
        except BaseException:
            self._error = StorageError("a download was given up")
            raise
        finally:
            self._is_over = True
            self._arrived.set()

    async def _more(self) -> None:
        while not self._portions and not self._is_over:
            self._arrived.clear()
            await self._arrived.wait()
