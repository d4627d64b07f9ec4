"""One budget, in bytes, for what decompressing takes in a worker.

Each download from an upstream has a share of it from before it begins until it has ended. A download that does not fit
waits, within a time limit. Large shares, which only wide windows need, leave a part of the budget to small ones, and a
large share that waits is not overtaken by small ones for ever.
"""

import asyncio
import threading
from collections import deque
from typing import Final

from harmonia_py.errors import Overloaded
from harmonia_py.runtime.tasks import wake

MIB: Final = 1024 * 1024
# The budget of each worker: 28 downloads whose windows are full, or one with the widest window beside a dozen others.
BUDGET_BYTES: Final = 256 * MIB
# The part that large shares leave to small ones.
FOR_SMALL_BYTES: Final = 112 * MIB
# A share up to this is small: a window of 8 MiB, an encoder, buffers; and brotli, whose windows have 16.
SMALL_BYTES: Final = 24 * MIB
# Clients give up after 300 seconds.
LONGEST_WAIT_SECONDS: Final = 60.0


class Memory:
    """Gives out shares of `total` bytes, from any thread.

    Args:
        total: bytes.
        for_small: bytes of the budget that only shares of up to `SMALL_BYTES` may have.
        longest_wait: seconds after which a share is refused.
    """

    def __init__(
        self,
        total: int = BUDGET_BYTES,
        for_small: int = FOR_SMALL_BYTES,
        longest_wait: float = LONGEST_WAIT_SECONDS,
    ) -> None:
        self.longest_wait = longest_wait
        self._total = total
        self._for_small = for_small
        # Reentrant: the garbage collector may close a share at any call below, in the thread that is inside.
        self._lock = threading.RLock()
        self._small = self._large = 0
        self._waiting_small: deque[_Waiting] = deque()
        self._waiting_large: deque[_Waiting] = deque()

    @property
    def taken(self) -> int:
        """Bytes of all shares."""
        return self._small + self._large

    def share(self) -> "Share":
        """A share of no bytes, which may grow. It must be closed."""
        return Share(self)

    def _queue(self, size: int) -> "deque[_Waiting]":
        return self._waiting_large if size > SMALL_BYTES else self._waiting_small

    def _fits(self, size: int) -> bool:
        if self.taken + size > self._total:
            return False
        if size > SMALL_BYTES:
            return self._large + size <= self._total - self._for_small
        return not self._waiting_large or self._small + size <= self._for_small

    def _set(self, share: "Share", size: int) -> None:
        # Without a call or a loop, so that nothing comes in between.
        before, share.size = share.size, size
        if before > SMALL_BYTES:
            self._large -= before
        else:
            self._small -= before
        if size > SMALL_BYTES:
            self._large += size
        else:
            self._small += size

    def _try(self, share: "Share", size: int) -> bool:
        with self._lock:
            before = share.size
            self._set(share, 0)
            fits = not self._queue(size) and self._fits(size)
            self._set(share, size if fits else before)
            return fits

    def _take_or_wait(self, share: "Share", size: int) -> "_Waiting | None":
        with self._lock:
            # A waiting share holds nothing: two that wait for each other would wait for ever.
            self._set(share, 0)
            if not self._queue(size) and self._fits(size):
                self._set(share, size)
                return None
            waiting = _Waiting(share, size)
            self._queue(size).append(waiting)
            self._serve()
            return waiting

    def _stop_waiting(self, waiting: "_Waiting") -> None:
        with self._lock:
            for queue in (self._waiting_large, self._waiting_small):
                if waiting in queue:
                    queue.remove(waiting)
            self._serve()

    def _close(self, share: "Share") -> None:
        with self._lock:
            self._set(share, 0)
            self._serve()

    def _serve(self) -> None:
        for queue in (self._waiting_large, self._waiting_small):
            while queue and self._fits(queue[0].size):
                waiting = queue.popleft()
                self._set(waiting.share, waiting.size)
                waiting.grant()


class Share:
    """A part of a `Memory`.

    Attributes:
        size: in bytes.
    """

    def __init__(self, memory: Memory) -> None:
        self.size = 0
        self._memory = memory

    def try_grow(self, size: int) -> bool:
        """Have at least `size` bytes from now on, if there are so many."""
        return size <= self.size or self._memory._try(self, size)  # noqa: SLF001  # two halves of one thing

    async def grow(self, size: int) -> None:
        """Have at least `size` bytes; give up those that it has until then.

        Raises:
            Overloaded: there are not so many for too long.
        """
        if size <= self.size:
            return
        waiting = self._memory._take_or_wait(self, size)  # noqa: SLF001
        if waiting is None:
            return
        try:
            async with asyncio.timeout(self._memory.longest_wait):
                await waiting.granted
        except TimeoutError:
            raise Overloaded("the memory for downloads from upstreams is taken") from None
        finally:
            self._memory._stop_waiting(waiting)  # noqa: SLF001

    def close(self) -> None:
        """Give all of it back. Called once or more often."""
        self._memory._close(self)  # noqa: SLF001


class _Waiting:
    """A share that waits for `size` bytes."""

    def __init__(self, share: Share, size: int) -> None:
        self.share = share
        self.size = size
        self._loop = asyncio.get_running_loop()
        self.granted: asyncio.Future[None] = self._loop.create_future()

    def grant(self) -> None:
        """Wake it; any thread calls this."""
        self._loop.call_soon_threadsafe(wake, self.granted)


class MemoryFull(Overloaded):
    """Decompressing has stopped at a stream that needs more memory than there is, and can go on when there is."""

    def __init__(self, share: Share, size: int) -> None:
        super().__init__("too many files with wide windows are being decompressed")
        self._share = share
        self._size = size

    async def wait(self) -> None:
        """Return when there is enough.

        Raises:
            Overloaded: that took too long.
        """
        await self._share.grow(self._size)


UNPACKING: Final = Memory()
"""The memory of this process."""
