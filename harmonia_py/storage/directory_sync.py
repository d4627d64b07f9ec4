"""Names in directories, made durable. Everything here blocks, and is called in threads."""

from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Lock

from harmonia_py.runtime.durable import sync_directory


class DirectorySync:
    """Makes names in directories durable; callers that wait for the same directory share one sync.

    Args:
        threads: wait for the disk.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._lock = Lock()
        self._waiting: dict[Path, Future[None]] = {}

    def begin(self, path: Path) -> "Future[None]":
        """Make the names that are in a directory by now durable; the future is done when they are.

        The result raises:
            OSError: they may not be durable.
        """
        with self._lock:
            waiting = self._waiting.get(path)
            if waiting is None:
                waiting = self._waiting[path] = self._threads.submit(self._sync, path)
            return waiting

    def _sync(self, path: Path) -> None:
        with self._lock:
            del self._waiting[path]  # a name that is made from now on needs another sync
        sync_directory(path)
