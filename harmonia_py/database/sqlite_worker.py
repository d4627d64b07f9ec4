"""The threads of a database over SQLite: each has a connection, and a bounded queue of transactions."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, Generic, TypeVar

from harmonia_py.database.jobs import CLOSE_SECONDS, TOGETHER, Job, admit
from harmonia_py.errors import CatalogError, HarmoniaError, StorageError, StorageFull, describe_os_error

T = TypeVar("T")
Item = TypeVar("Item")

_FULL: Final = (sqlite3.SQLITE_FULL,)
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA)


class translated:  # noqa: N801  # reads as a word of the language
    """Give exceptions inside to the job; those of SQLite as `StorageError`."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._job.error = storage_error(error) if isinstance(error, sqlite3.Error) else error
        return error is not None


class QueueThread(ABC, Generic[Item]):
    """A thread that takes items from a queue. It begins with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        # One that is made in C: the event loop would lose the interpreter's lock to the thread that it wakes.
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._closed = False

    def put(self, item: Item) -> None:
        """Give the thread an item."""
        if self._thread is None:
            # A daemon: a thread that another process's lock holds up does not keep this process from ending.
            self._thread = Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put(item)

    def close(self) -> bool:
        """End the thread when the queue is empty; False when it does not end. Blocks."""
        self._closed = True
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        return not self._thread.is_alive()

    @abstractmethod
    def _work(self) -> None:
        """Take items, until one is None."""


class Worker(QueueThread[Job[Any]]):
    """A thread with a connection and a bounded queue of transactions."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        run: Callable[[sqlite3.Connection, Sequence[Job[Any]]], None],
    ) -> None:
        super().__init__(name)
        self._connect = connect
        self._run = run

    async def do(self, job: Job[T]) -> T:
        """As `Job.answer`."""
        admit(self._queue.qsize(), is_closed=self._closed)
        self.put(job)
        return await job.answer()

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        more = True
        while more:
            jobs, more = self._next()
            if not jobs:
                continue
            try:
                connection = connection or self._connect()
            except sqlite3.Error as error:
                for job in jobs:
                    job.error = storage_error(error)
                    job.finish()
                continue
            self._run(connection, jobs)
        if connection is not None:
            connection.close()

    def _next(self) -> tuple[list[Job[Any]], bool]:
        """The jobs to do now, without those whose callers have left, and whether there will be more."""
        jobs: list[Job[Any]] = []
        job = self._queue.get()
        try:
            while job is not None:
                if not job.future.done():
                    jobs.append(job)
                if len(jobs) >= TOGETHER:
                    break
                job = self._queue.get_nowait()
        except Empty:
            return jobs, True
        return jobs, job is not None


def storage_error(error: BaseException) -> HarmoniaError:
    """The error of SQLite or the system as ours, with its cause."""
    if isinstance(error, HarmoniaError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in _FULL:
        kind: type[HarmoniaError] = StorageFull
    elif primary in _DAMAGED:
        kind = CatalogError
    else:
        kind = StorageError
    translated = kind(f"the catalog: {describe_os_error(error) if isinstance(error, OSError) else error}")
    translated.__cause__ = error
    return translated
