"""The threads of a database over SQLite: each has a connection, and a bounded queue of transactions."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, Generic, TypeVar

from harmonia_py.database.transaction import Topic, Transaction
from harmonia_py.errors import CatalogError, HarmoniaError, StorageError, StorageFull, describe_os_error

T = TypeVar("T")

# Seconds that a job waits: after that its client has left, or the disk stands still.
WAIT_SECONDS: Final = 10.0
# Jobs that wait at most; each further one is refused at once.
_QUEUE: Final = 4096
# Transactions that become durable together.
_TOGETHER: Final = 64
_CLOSE_SECONDS: Final = 10.0

_FULL: Final = (sqlite3.SQLITE_FULL,)
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA)


class Job(Generic[T]):
    """A transaction on its way through a thread."""

    def __init__(
        self, transaction: Callable[[], Transaction[T]], changes: Collection[Topic] = (), *, durable: bool = True
    ) -> None:
        self.transaction = transaction
        self.changes = changes
        self.durable = durable
        self.result: T | None = None
        self.error: BaseException | None = None
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()

    def finish(self) -> None:
        """Hand over the result or the error; the thread calls this."""
        with suppress(RuntimeError):  # the loop has ended, and nothing waits any more
            self.loop.call_soon_threadsafe(self._resolve)

    def give_up(self) -> None:
        """Tell the caller that it took too long."""
        if not self.future.done():
            self.future.set_exception(StorageError("the catalog did not answer in time"))

    def _resolve(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # it is what the transaction returned


class translated:  # noqa: N801  # reads as a word of the language
    """Give exceptions inside to the job; those of SQLite as `StorageError`."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self._job.error = storage_error(error) if isinstance(error, sqlite3.Error) else error
        return error is not None


class Worker:
    """A thread with a connection and a bounded queue. It begins with the first job."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        run: "Callable[[sqlite3.Connection, Sequence[Job[Any]]], None]",
    ) -> None:
        self._name = name
        self._connect = connect
        self._run = run
        # One that is made in C: the event loop would lose the interpreter's lock to the thread that it wakes.
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._closed = False

    async def do(self, job: Job[T]) -> T:
        """The result of the transaction. Raises what it raises.

        Raises:
            StorageError: it cannot be done, or not in time; then it may still be done later.
        """
        if self._closed:
            raise StorageError("the catalog is closed")
        if self._thread is None:
            # A daemon: a thread that another process's lock holds up does not keep this process from ending.
            self._thread = Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        if self._queue.qsize() >= _QUEUE:
            raise StorageError("too much waits for the catalog")
        self._queue.put(job)
        timer = job.loop.call_later(WAIT_SECONDS, job.give_up)
        try:
            return await job.future
        finally:
            timer.cancel()

    def close(self) -> bool:
        """End the thread when the queue is empty; False when it does not end. Blocks."""
        self._closed = True
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(_CLOSE_SECONDS)
        return not self._thread.is_alive()

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
                if len(jobs) >= _TOGETHER:
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
