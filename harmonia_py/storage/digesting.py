"""Blobs read once more from beginning to end, at a lower priority than everything for clients."""

import hashlib
import threading
import time
from abc import ABC, abstractmethod
from typing import Final, Self

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.runtime.threads import Threads, in_thread

PORTION: Final = 1024 * 1024
"""Bytes that are read at a time; a thread that is to stop does so after them."""


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


class BlobDigests(ABC):
    """Computes hashes of blobs, in `threads`, which end with it. Entered inside the event loop that uses it."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._stop = threading.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all readings."""
        self._stop.set()
        await self._threads.aclose()

    async def digest(self, key: BlobKey, *, rate: float | None = None) -> Digest | None:
        """As in `Digests`. When this call is cancelled, the reading ends, and then this call."""
        stop = threading.Event()
        return await in_thread(self._threads, self._read, key, Reading(rate, stop, self._stop), give_up=stop.set)

    @abstractmethod
    def _read(self, key: BlobKey, reading: Reading) -> Digest | None:
        """Read a blob, in a thread; None when there is none that is whole."""
