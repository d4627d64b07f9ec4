"""Bytes of this machine as a producer: dumps of store paths, and kept files that become others."""

import threading
import time
from concurrent.futures import Executor
from typing import Final

from harmonia_py.cache.source import Download, Pause
from harmonia_py.contents.blobs import Blob
from harmonia_py.contents.incoming import Take
from harmonia_py.contents.pieces import BUFFER_BYTES, portions
from harmonia_py.contents.writing import SMALL_BYTES
from harmonia_py.runtime.threads import Threads, in_thread

# A thread gives way after this time, so that what no client wants any more is given up in the middle.
_SLICE_SECONDS: Final = 0.05


class ReadPieces:
    """A `Producer` over the pieces of a download, read in threads.

    Args:
        source: released with this.
        threads: read portion by portion.
    """

    def __init__(self, source: Download | Blob, threads: Threads) -> None:
        self.size = source.size
        self._source = source
        self._threads = threads
        self._portions = portions(source.pieces(0, None), source.size or BUFFER_BYTES)
        self._ended = False
        self._gathered = bytearray()
        self._lock = threading.Lock()

    async def read(self) -> bytes:
        """The next bytes."""
        while isinstance(portion := await in_thread(self._threads, self._next), Pause):
            await portion.wait()
        return portion

    async def pour(self, take: Take, threads: Executor) -> bool:
        """Have a thread read for a moment; a small download is read whole."""
        pause = await in_thread(threads, self._pour, take)
        if pause is not None:
            await pause.wait()
        return not self._ended

    def close(self) -> None:
        """Release the source."""
        self._source.release()
        self._threads.later(self._close)

    def _next(self) -> bytes | Pause:
        with self._lock:
            portion = next(self._portions, b"")
            return portion if isinstance(portion, Pause) else bytes(portion)

    def _pour(self, take: Take) -> Pause | None:
        with self._lock:
            if self.size is not None and self.size <= SMALL_BYTES:
                return self._pour_small(take)
            stop = time.monotonic() + _SLICE_SECONDS
            for portion in self._portions:
                if isinstance(portion, Pause):
                    return portion
                take(portion)
                if time.monotonic() > stop:
                    return None
            self._ended = True
            return None

    def _pour_small(self, take: Take) -> Pause | None:
        for portion in self._portions:
            if isinstance(portion, Pause):
                return portion
            self._gathered += portion
        self._ended = True
        take(bytes(self._gathered))
        return None

    def _close(self) -> None:
        with self._lock:
            self._portions.close()
