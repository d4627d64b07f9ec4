"""Blobs read once more from beginning to end, at a lower priority than everything for clients."""

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.runtime.threads import Pool, Threads, in_thread

PORTION: Final = 1024 * 1024
"""Bytes that are read at a time; a thread that is to stop does so after them."""

T = TypeVar("T")


class Reading:
    """One blob, as a thread reads it.

    Args:
        rate: bytes a second; None for as fast as they come.
        stops: events, each of which ends the reading; between portions the thread waits for the first.

    Attributes:
        size: number of bytes that have been read.
    """

    def __init__(self, rate: float | None, *stops: threading.Event) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._rate = rate
        self._stops = stops
        self._began = time.monotonic()

    def add(self, data: "bytes | memoryview") -> None:
        """Take the next bytes, and wait until more may be read.

        Raises:
            StorageError: the reading is to stop.
        """
        self._digest.update(data)
        self.size += len(data)
        due = self._began + self.size / self._rate if self._rate else 0.0
        self._stops[0].wait(max(0.0, due - time.monotonic()))
        if any(stop.is_set() for stop in self._stops):
            raise StorageError("reading a file was given up")

    def hash(self) -> Hash:
        """The hash of all bytes that were read."""
        return Hash("sha256", self._digest.digest())


class ReadingThreads:
    """Threads that read blobs once more; a reading ends when its caller is cancelled."""

    def __init__(self, pool: Pool, threads: int) -> None:
        self._threads = Threads(pool, threads)
        self._stop = threading.Event()

    async def run(self, read: Callable[[Reading], T], rate: float | None) -> T:
        """The result of `read` in a thread. When this call is cancelled, it returns after `read` has ended."""
        stop = threading.Event()
        return await in_thread(self._threads, read, Reading(rate, stop, self._stop), give_up=stop.set)

    async def aclose(self) -> None:
        """End all readings."""
        self._stop.set()
        await self._threads.aclose()
