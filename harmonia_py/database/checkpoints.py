"""Copies committed pages from SQLite's log into the database, in a thread of its own.

SQLite's own way is that the writer whose commit makes the log long does it, before it goes on: it writes some hundred
pages all over the database and waits for the disk twice, and all that is to be committed waits with it.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from harmonia_py.database.sqlite_worker import QueueThread

# One push of a path commits two or three times, some twenty pages each: the log stays below 4 MiB.
COMMITS: Final = 32
"""After so many commits of this process the log is copied,"""
# A transaction of the collector changes some thousand rows on as many pages, which are copied during the next one.
ROWS: Final = 1024
"""and after so many rows that they have changed."""


class Checkpoints(QueueThread[bool]):
    """The thread that copies. It begins when there is something to copy.

    Args:
        connect: makes a connection of its own.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        super().__init__("catalog-checkpoint")
        self._connect = connect
        self._commits = 0
        self._rows = 0
        # A request that waited for the end of a copy would begin the next one at once. While this thread copies, a
        # writer that finds the log too long cannot copy the rest, and the log would never begin anew.
        self._is_copying = False

    def committed(self, rows: int) -> None:
        """Count a commit and its rows, and have the log copied when there were many. The writing thread calls this."""
        self._commits += 1
        self._rows += rows
        if (self._commits < COMMITS and self._rows < ROWS) or self._is_copying:
            return
        self._commits = self._rows = 0
        self._is_copying = True
        self.put(True)

    def _work(self) -> None:
        # Pages that cannot be copied now stay in the log, where readers find them, until the next time.
        with suppress(sqlite3.Error):
            connection = self._connect()
            try:
                while self._queue.get():
                    with suppress(sqlite3.Error):
                        connection.execute("pragma wal_checkpoint(passive)").fetchall()
                    self._is_copying = False
            finally:
                connection.close()
            return
        while self._queue.get():
            pass
