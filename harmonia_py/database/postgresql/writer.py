"""Transactions that write: those that wait while one is made durable go together into the next one."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from harmonia_py.database.jobs import CLOSE_SECONDS, TOGETHER, Job, admit
from harmonia_py.database.postgresql.changes import Changes
from harmonia_py.database.postgresql.connections import FAILURES, Connection, Connections, storage_error
from harmonia_py.database.postgresql.running import TURN, run
from harmonia_py.database.transaction import Topic, Transaction
from harmonia_py.errors import HarmoniaError, StorageError
from harmonia_py.runtime.tasks import end_task

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.1

# A process asks within seconds whether its last transaction was made.
_FORGOTTEN_SECONDS: Final = 86_400

_BEGIN: Final = f"""
    insert into writers (process, number, begun_s)
        select $1, pg_current_xact_id()::text::bigint, extract(epoch from now())::bigint from {TURN}
    on conflict (process) do update set number = excluded.number, begun_s = excluded.begun_s
    returning number
"""
_FORGET: Final = f"delete from writers where begun_s < extract(epoch from now())::bigint - {_FORGOTTEN_SECONDS}"
_STATUS: Final = "select pg_xact_status($1::bigint::text::xid8)"
_LAST: Final = "select number from writers where process = $1"


class Writer:
    """One process's turns at writing.

    Args:
        connections: one at once.
        changes: is told of changes.
    """

    def __init__(self, connections: Connections, changes: Changes) -> None:
        self._connections = connections
        self._changes = changes
        self._queue: deque[Job[Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._process = secrets.token_hex(8)
        self._has_forgotten = False

    async def do(self, transaction: Callable[[], Transaction[T]], changes: Collection[Topic], *, durable: bool) -> T:
        """As `Job.answer`."""
        admit(len(self._queue), is_closed=self._closed)
        job = Job(transaction, changes, durable=durable)
        self._queue.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await job.answer()

    async def aclose(self) -> None:
        """Finish the transactions that have begun."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
            await end_task(self._task)
        await self._connections.aclose()

    async def _work(self) -> None:
        while self._queue:
            # Without transactions whose callers have left.
            jobs = [job for job in self._next() if not job.future.done()]
            if not jobs:
                continue
            try:
                await self._do(jobs)
            except HarmoniaError as error:
                for job in jobs:
                    job.resolve(error)
            except BaseException:
                for job in jobs:
                    job.resolve(StorageError("the catalog is closed"))
                raise
            for job in jobs:
                job.resolve()

    def _next(self) -> list[Job[Any]]:
        return [self._queue.popleft() for _ in range(min(TOGETHER, len(self._queue)))]

    async def _do(self, jobs: Sequence[Job[Any]]) -> None:
        """Several transactions as one, each undone by itself when it raises; begun anew when the server has gone."""
        begun: list[int] = []

        async def work(connection: Connection) -> None:
            # The connection may have been lost in the middle of a commit: whether that was done, the server knows.
            if begun and await _was_committed(connection, self._process, begun[-1]):
                return
            await self._write(connection, jobs, begun)

        await self._connections.do(work)

    async def _write(self, connection: Connection, jobs: Sequence[Job[Any]], begun: list[int]) -> None:
        number = await self._begin(connection, jobs)
        for job in jobs:
            await _run(connection, job)
            if job.error is not None:
                break
        if any(job.error is not None for job in jobs):
            await connection.execute("rollback")
            if len(jobs) == 1:
                return
            # Few are refused. A savepoint for each is two questions more for all of them, while others wait.
            number = await self._begin(connection, jobs)
            for job in jobs:
                await _run_apart(connection, job)
        topics = {topic for job in jobs if job.error is None for topic in job.changes}
        with self._changes.changing(topics):
            begun.append(number)
            await connection.execute(f"{self._changes.notification(topics)}commit")

    async def _begin(self, connection: Connection, jobs: Sequence[Job[Any]]) -> int:
        """Begin a transaction, in its turn: its number, which it writes down."""
        waits = any(job.durable for job in jobs)
        await connection.execute("begin" if waits else "begin; set local synchronous_commit = off")
        number: int = await connection.fetchval(_BEGIN, self._process)
        if not self._has_forgotten:
            await connection.execute(_FORGET)
            self._has_forgotten = True
        return number


async def _run(connection: Connection, job: Job[Any]) -> None:
    """Do it in a transaction that is open. Raises what asyncpg raises; what it raises itself is kept."""
    job.result = job.error = None
    try:
        job.result = await run(connection, job.transaction())
    except FAILURES as error:
        if connection.is_closed() or not connection.is_in_transaction():
            raise
        job.error = storage_error(error)
    except Exception as error:  # noqa: BLE001  # as the transaction raised it
        job.error = error


async def _run_apart(connection: Connection, job: Job[Any]) -> None:
    """Do it so that it can be undone without the others."""
    await connection.execute("savepoint job")
    await _run(connection, job)
    await connection.execute("release job" if job.error is None else "rollback to job; release job")


async def _was_committed(connection: Connection, process: str, number: int) -> bool:
    """Whether the last transaction of this process was made. It may still be under way, where its connection was lost.

    What it has written says so, not its number alone: when the server crashes before anything of a transaction is on
    its disk, it gives the number again.
    """
    try:
        while await connection.fetchval(_STATUS, number) == "in progress":  # noqa: ASYNC110  # the server notifies of no end
            await asyncio.sleep(_LOOK_SECONDS)
    except asyncpg.InvalidParameterValueError:
        return False  # it is in the future
    return bool(await connection.fetchval(_LAST, process) == number)
