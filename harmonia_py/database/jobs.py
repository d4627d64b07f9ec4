"""Transactions that wait for the thread, or the connection, that runs them: bounded in number and in time."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final, Generic, TypeVar

from harmonia_py.database.transaction import Topic, Transaction
from harmonia_py.errors import StorageError

T = TypeVar("T")

WAIT_SECONDS: Final = 10.0
"""How long a transaction takes, with all its beginnings: after that its client has left, or the disk stands still."""
TOGETHER: Final = 64
"""Transactions that become durable together."""
CLOSE_SECONDS: Final = 10.0
"""How long the end of a database waits for what has begun."""
# Jobs that wait at most; each further one is refused at once.
_QUEUE: Final = 4096


class Job(Generic[T]):
    """A transaction on its way. What runs it sets the result or the error."""

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

    async def answer(self) -> T:
        """The result of the transaction. Raises what it raises.

        Raises:
            StorageError: it cannot be done, or not in time; then it may still be done later.
        """
        timer = self.loop.call_later(WAIT_SECONDS, self.resolve, StorageError("the catalog did not answer in time"))
        try:
            return await self.future
        finally:
            timer.cancel()

    def resolve(self, error: BaseException | None = None) -> None:
        """Hand over the result or the error; `error` in place of both."""
        if self.future.done():
            return
        if (error := error or self.error) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # it is what the transaction returned

    def finish(self) -> None:
        """As `resolve`, called by a thread."""
        with suppress(RuntimeError):  # the loop has ended, and nothing waits any more
            self.loop.call_soon_threadsafe(self.resolve)


def admit(waiting: int, *, is_closed: bool) -> None:
    """Let one more job in, behind so many that wait.

    Raises:
        StorageError: there are too many, or the database is closed.
    """
    if is_closed:
        raise StorageError("the catalog is closed")
    if waiting >= _QUEUE:
        raise StorageError("too much waits for the catalog")
