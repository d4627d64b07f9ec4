"""The length of a growing file, kept once for all readers of this process, which its writer wakes.

A writer in this process reports its progress. For a file that another process writes, one task looks at its length, for
all readers, and only while one of them waits. So the cost of waiting does not depend on the number of readers.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.errors import StorageError
from harmonia_py.runtime.tasks import end_task, wake

# When nothing was added to a file for so long, its writer hangs; clients give up after 300 seconds.
STALL_SECONDS: Final = 120.0
# Between two looks at the file of another process: short at first, because most NARs are small and take milliseconds;
# then below what a person or a socket notices.
_FIRST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.032
# Between two wake-ups of readers at least: a fast writer would wake them for every few pages.
_WAKE_SECONDS: Final = 0.004


class Look(NamedTuple):
    """A look at a file of another process: its size, whether it is whole, whether its writer is gone."""

    size: int
    whole: bool
    closed: bool


class Growth:
    """The length of a growing file. The file is closed when nothing uses it any more.

    Args:
        fd: the file, opened for reading.
        ended: called with this object, from any thread, when the last use has ended; it closes `fd`.
        look: looks at the file of another process, in a thread; None when the writer is in this process.
        run: runs such a look in a thread.

    Attributes:
        is_closed: whether the writer has ended, as far as this process knows.
        looks: number of looks.
    """

    def __init__(
        self,
        fd: int,
        ended: "Callable[[Growth], None]",
        look: Callable[[], Look] | None = None,
        run: Callable[[Callable[[], None]], Awaitable[None]] | None = None,
    ) -> None:
        self.fd = fd
        self._ended = ended
        self._look = look
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._uses = 1  # that of the writer, or of the first reader
        self._size = 0
        self._whole = False
        self.is_closed = False
        self.looks = 0
        self._grew = self._looked = time.monotonic()
        self._waiting: set[asyncio.Future[None]] = set()
        self._waking = False
        self._woke = 0.0
        self._watcher: asyncio.Task[None] | None = None

    def is_followed(self) -> bool:
        """Whether a reader uses the file beside the writer."""
        return self._uses > 1

    def use(self) -> bool:
        """Add a use, which keeps the file open; False when it is closed already."""
        with self._lock:
            if self._uses:
                self._uses += 1
            return self._uses > 0

    def leave(self) -> None:
        """End one use."""
        with self._lock:
            self._uses -= 1
            if self._uses:
                return
        self._ended(self)

    def note(self, size: int, *, whole: bool = False, closed: bool = False) -> None:
        """Note the progress of the writer. Any thread may call it."""
        if size > self._size:
            self._grew = time.monotonic()
        # The flags are set after the size, and a reader reads them before the size: so a reader that finds the file
        # whole reads its last size.
        self._size = max(self._size, size)
        self._whole = self._whole or whole
        self.is_closed = self.is_closed or closed
        if self._waiting and not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop has ended, and its tasks with it
                self._loop.call_soon_threadsafe(self._wake)

    def pieces(self, start: int, stop: int | None) -> Iterator[Piece]:
        """The bytes of the file from `start` on, as they come; a `Pause` when the writer has added none.

        Raises:
            StorageError: the writer gave up, died, or stands still.
        """
        if not self.use():
            raise StorageError("a file was read after it had been released")
        try:
            offset = start
            while stop is None or offset < stop:
                self._look_again()
                closed, whole, size = self.is_closed, self._whole, self._size
                end = size if stop is None else min(stop, size)
                if closed and not whole:
                    raise StorageError("the writer of this file has given up")
                if offset < end:
                    yield FileSlice(self.fd, offset, end - offset)
                    offset = end
                elif whole:
                    return
                elif time.monotonic() - self._grew > STALL_SECONDS:
                    raise StorageError("the writer of this file stands still")
                else:
                    yield Pause(_LONGEST_PAUSE_SECONDS, partial(self.reaches_beyond, offset))
        finally:
            self.leave()

    async def reaches_beyond(self, offset: int) -> bool:
        """Wait until the file is longer than `offset`, or will not grow any more; whether there is more to read.

        A file to which nothing was added for `STALL_SECONDS` counts as one that will not grow any more.
        """
        await self._until(lambda: self._size > offset or self._whole or self.is_closed)
        return self._whole or (self._size > offset and not self.is_closed)

    async def closed(self) -> None:
        """Return when the writer has ended, or stands still."""
        await self._until(lambda: self.is_closed)

    async def _until(self, condition: Callable[[], bool]) -> None:
        until = self._loop.time() + STALL_SECONDS
        while not condition() and (left := until - self._loop.time()) > 0:
            waiting: asyncio.Future[None] = self._loop.create_future()
            self._waiting.add(waiting)
            try:
                if condition():  # the writer may have looked for waiting tasks a moment before this one was added
                    return
                self._watch()
                await asyncio.wait([waiting], timeout=left)
            finally:
                self._waiting.discard(waiting)

    def _wake(self) -> None:
        left = self._woke + _WAKE_SECONDS - self._loop.time()
        if left > 0 and not self._whole and not self.is_closed:
            self._loop.call_later(left, self._wake)
            return
        self._waking = False
        self._woke = self._loop.time()
        for waiting in self._waiting:
            wake(waiting)

    async def aclose(self) -> None:
        """Stop looking: from now on nothing is known of the file."""
        self.note(self._size, closed=True)
        await end_task(self._watcher)

    # The file of another process

    def _look_again(self) -> None:
        if self._look is not None and time.monotonic() - self._looked > _LONGEST_PAUSE_SECONDS:
            self._take_look()

    def _take_look(self) -> None:
        if self._look is None or self.is_closed:
            return
        self.looks += 1
        self._looked = time.monotonic()
        size, whole, closed = self._look()
        if (size, whole, closed) != (self._size, self._whole, self.is_closed):
            self.note(size, whole=whole, closed=closed)

    def _watch(self) -> None:
        if self._look is not None and (self._watcher is None or self._watcher.done()):
            self._watcher = asyncio.create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        assert self._run is not None
        if not self.use():
            return
        try:
            while self._waiting and not self.is_closed:
                size = self._size
                await self._run(self._take_look)
                pause = _FIRST_PAUSE_SECONDS if self._size > size else min(2 * pause, _LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause)
        except StorageError:
            self.note(self._size, closed=True)  # when the file cannot be looked at, its writer counts as gone
        finally:
            self.leave()
