"""Files that one worker has sent a moment ago and still has open: the next request for one is answered at once."""

import asyncio
import time
from collections import OrderedDict
from typing import Final, NamedTuple

from harmonia_py.cache.caches import NamedCache
from harmonia_py.cache.validity import Validity
from harmonia_py.web.fast.ready_file import ReadyFile

# A kept file stays open and ready for so long after it was first sent.
READY_FILE_SECONDS: Final = 60.0
MAX_READY_FILES: Final = 512


class KnownFile(NamedTuple):
    """A ready file, the cache that it is of, and until when it may be given."""

    until: float
    cache: NamedCache
    validity: Validity | None
    file: ReadyFile

    def is_for(self, coding: str | None, now: float) -> bool:
        """Whether a client that selects `coding` gets this file.

        It does not when the path may be invalid by now, or another program has written to the file.
        """
        if coding is not None and self.file.is_coded_for_some:
            return False
        return (self.validity is None or self.validity.holds(now)) and self.file.is_unchanged()


class ReadyFiles:
    """Ready files by what follows `GET /`; the oldest goes first."""

    def __init__(self) -> None:
        self._files: OrderedDict[bytes, KnownFile] = OrderedDict()
        self._purge: asyncio.TimerHandle | None = None

    def get(self, target: bytes) -> KnownFile | None:
        """The file for `target`."""
        return self._files.get(target)

    def add(self, target: bytes, cache: NamedCache, validity: Validity | None, file: ReadyFile) -> None:
        """Give `file` to clients that may read `cache`, for as long as `validity` says; it is left in the end."""
        self._drop(target)
        self._files[target] = KnownFile(time.monotonic() + READY_FILE_SECONDS, cache, validity, file)
        if len(self._files) > MAX_READY_FILES:
            self._drop(next(iter(self._files)))
        if self._purge is None:
            self._purge = asyncio.get_running_loop().call_later(READY_FILE_SECONDS, self._purge_old)

    def clear(self) -> None:
        """Leave every file."""
        while self._files:
            self._drop(next(iter(self._files)))
        if self._purge is not None:
            self._purge.cancel()
            self._purge = None

    def _drop(self, target: bytes) -> None:
        found = self._files.pop(target, None)
        if found is not None:
            found.file.leave()

    def _purge_old(self) -> None:
        """Close files after a while, so that an evicted file frees the disk."""
        self._purge = None
        now = time.monotonic()
        while self._files and next(iter(self._files.values())).until <= now:
            self._drop(next(iter(self._files)))
        if self._files:
            delay = next(iter(self._files.values())).until - now
            self._purge = asyncio.get_running_loop().call_later(delay, self._purge_old)
