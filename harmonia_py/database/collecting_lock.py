"""The lock of the process that collects, of all that share a catalog, on a file beside the database.

Two that collect at the same time could delete bytes that were written anew in between: one claims a key, the other has
deleted and forgotten it already, and a push has used it again.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from harmonia_py.errors import StorageError, describe_os_error

_LOOK_SECONDS: Final = 0.05


class CollectingLock:
    """The lock. A process that dies lets go of it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @asynccontextmanager
    async def hold(self, wait_seconds: float = 0.0) -> AsyncIterator[bool]:
        """Hold the lock; False when another process, or another task of this one, has it for longer than that.

        Raises:
            StorageError: the file cannot be opened.
        """
        try:
            # A descriptor of its own for each holder: flock tells those apart, not processes.
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"the catalog: {describe_os_error(error)}") from error
        try:
            yield await _lock(lock, time.monotonic() + wait_seconds)
        finally:
            os.close(lock)


async def _lock(lock: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            return True
