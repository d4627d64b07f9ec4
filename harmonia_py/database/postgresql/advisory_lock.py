"""Work of one process of all that share a database: the one whose connection holds an advisory lock.

A connection that is lost releases the lock, so the work under it ends with the connection: otherwise a second
process could begin while the first goes on. What the first has begun at that moment may still be under way, so the next
holder waits for it, unless the one before has let go in order.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from harmonia_py.database.postgresql.connections import FAILURES, Address, Connection, storage_error
from harmonia_py.errors import StorageError
from harmonia_py.runtime.tasks import end_task

# "harm", in the upper half of the numbers of locks: no other program will have taken it.
_OURS: Final = 0x6861726D_00000000
_LOOK_SECONDS: Final = 0.05
_HEARTBEAT_SECONDS: Final = 2.0
# The server gives up what takes it as long. What is lost on the way is never answered.
_ANSWER_SECONDS: Final = 10.0

_HELD: Final = "select value from progress where name = $1::text"
_HOLD: Final = """
    insert into progress (name, value) values ($1::text, $2::text)
    on conflict (name) do update set value = excluded.value
"""
_LET_GO: Final = "delete from progress where name = $1::text"


class AdvisoryLock:
    """A lock, each holder over a connection of its own.

    Args:
        address: of the database.
        name: of the work under it: a row of that name says that it was begun.
        number: of the lock, below 2³².
        rest_seconds: for so long that may go on in a process that has lost the lock.
    """

    def __init__(self, address: Address, name: str, number: int, rest_seconds: float) -> None:
        self._address = address
        self._name = name
        self._key = _OURS | number
        self._rest_seconds = rest_seconds

    @asynccontextmanager
    async def hold(self, wait_seconds: float = 0.0) -> AsyncIterator[bool]:
        """Hold the lock; False when another process, or another task of this one, has it for longer than that.

        Raises:
            StorageError: the database cannot tell, or the lock was lost: the work under it has been cancelled.
        """
        try:
            connection = await self._address.connect()
        except FAILURES as error:
            raise storage_error(error) from error
        try:
            is_ours = await self._lock(connection, time.monotonic() + wait_seconds)
            if not is_ours:
                yield False
                return
            async with _ending_with(connection):
                yield True
            await self._let_go(connection)
        finally:
            connection.terminate()

    async def _lock(self, connection: Connection, end: float) -> bool:
        try:
            while not await self._try(connection):
                if time.monotonic() >= end:
                    return False
                await asyncio.sleep(_LOOK_SECONDS)
            async with asyncio.timeout(_ANSWER_SECONDS):
                was_held = await connection.fetchval(_HELD, self._name) is not None
            if was_held:
                await asyncio.sleep(self._rest_seconds)
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.fetch(_HOLD, self._name, str(time.time_ns()))
        except FAILURES as error:
            raise storage_error(error) from error
        return True

    async def _try(self, connection: Connection) -> bool:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return bool(await connection.fetchval(f"select pg_try_advisory_lock({self._key})"))

    async def _let_go(self, connection: Connection) -> None:
        with suppress(*FAILURES):  # the next holder waits a little
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.fetch(_LET_GO, self._name)
                await connection.execute(f"select pg_advisory_unlock({self._key})")


@asynccontextmanager
async def _ending_with(connection: Connection) -> AsyncIterator[None]:
    """A block that is cancelled when the connection is lost, which is then raised."""
    task = asyncio.current_task()
    assert task is not None
    lost = is_over = False

    def end(_: object) -> None:  # asyncpg calls it a turn of the loop after the end
        nonlocal lost
        if not is_over:
            lost = True
            task.cancel()

    connection.add_termination_listener(end)
    beating = asyncio.create_task(_beat(connection))
    try:
        yield
    except asyncio.CancelledError:
        if lost and task.uncancel() == 0:
            raise StorageError("the connection was lost that made this the one process of all") from None
        raise
    finally:
        is_over = True
        connection.remove_termination_listener(end)
        await end_task(beating)


async def _beat(connection: Connection) -> None:
    """Ask now and then for a sign of life, and end the connection when none comes."""
    while True:
        await asyncio.sleep(_HEARTBEAT_SECONDS)
        try:
            async with asyncio.timeout(_HEARTBEAT_SECONDS):
                await connection.fetchval("select 1")
        except FAILURES:
            connection.terminate()
            return
