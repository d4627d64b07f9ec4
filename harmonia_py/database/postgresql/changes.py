"""Changes by other processes, which NOTIFY tells of: a number for each topic, in memory of this process.

A number is odd while it is not known whether anything has changed: while a change of this process is made durable, and
while the connection that listens does not answer. Then answers are looked up each time. That connection is asked
several times a second, so an answer that is ready is wrong for a second at most, whatever becomes of the network.
"""

import asyncio
import logging
import secrets
from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from harmonia_py.database.postgresql.connections import FAILURES, Address, Connection
from harmonia_py.database.transaction import Topic

_log = logging.getLogger(__name__)

_CHANNEL: Final = "harmonia_py_changes"
_LOOK_SECONDS: Final = 0.3
_ANSWER_SECONDS: Final = 0.6
_AGAIN_SECONDS: Final = 0.25
_ID_BYTES: Final = 8


class Changes:
    """The numbers. `run` keeps them right."""

    def __init__(self, address: Address) -> None:
        self._address = address
        # Tells our own notifications from those of others: our own changes are known already.
        self._ours = secrets.token_hex(_ID_BYTES)
        self._changing: set[Topic] = set()
        self._is_known = False
        self._numbers = array("Q", [1] * len(Topic))
        self._listens = asyncio.Event()

    def generation(self, topic: Topic) -> int | None:
        """As in `Database`."""
        number = self._numbers[topic.value]
        return None if number & 1 else number

    def watch(self, topic: Topic) -> "memoryview[int]":
        """As in `Database`."""
        return memoryview(self._numbers)[topic.value : topic.value + 1].toreadonly()

    @contextmanager
    def changing(self, topics: Collection[Topic]) -> Iterator[None]:
        """A block for a change of `topics`, in which no answer that depends on them is ready; one at a time."""
        self._changing.update(topics)
        self._count(topics)
        try:
            yield
        except BaseException:
            # The change may still be made after we have given it up: then its notification counts as that of another.
            self._ours = secrets.token_hex(_ID_BYTES)
            raise
        finally:
            self._changing.difference_update(topics)
            self._count(topics)

    def notification(self, topics: Collection[Topic]) -> str:
        """The statement that tells other processes of a change, in the transaction that makes it."""
        numbers = " ".join(str(topic.value) for topic in sorted(topics, key=lambda topic: topic.value))
        return f"select pg_notify('{_CHANNEL}', '{self._ours} {numbers}'); " if topics else ""

    async def listening(self, seconds: float) -> None:
        """Wait until the numbers are known, for so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._listens.wait()

    async def run(self) -> None:
        """Listen, until cancelled; again and again when the server is away."""
        while True:
            try:
                await self._listen()
            except FAILURES as error:
                _log.debug("nothing is heard of changes for now: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _listen(self) -> None:
        connection = await self._address.connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: self._lose(lost))
            async with asyncio.timeout(_ANSWER_SECONDS):
                await connection.add_listener(_CHANNEL, self._hear)
            self._know(is_known=True)
            while not lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await lost.wait()
                        break
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.fetchval("select 1")
        finally:
            self._know(is_known=False)
            connection.terminate()

    def _lose(self, lost: asyncio.Event) -> None:
        self._know(is_known=False)
        lost.set()

    def _hear(self, _connection: Connection | Any, _process: int, _channel: str, payload: object) -> None:
        sender, *numbers = str(payload).split()
        if sender != self._ours:
            known = {str(topic.value): topic for topic in Topic}  # a newer release may have more
            self._count([known[number] for number in numbers if number in known])

    def _know(self, *, is_known: bool) -> None:
        self._is_known = is_known
        self._count(Topic)
        if is_known:
            self._listens.set()
        else:
            self._listens.clear()

    def _count(self, topics: Collection[Topic] | type[Topic]) -> None:
        for topic in topics:
            following = (self._numbers[topic.value] | 1) + 1
            self._numbers[topic.value] = following | int(not self._is_known or topic in self._changing)
