"""Turns at a scarce resource: clients are served in rounds, however much each of them asks for.

A queue needs no bound of its own: a request needs a connection, and those are counted.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from harmonia_py.errors import Overloaded, StorageError
from harmonia_py.runtime.tasks import wake

# A request that has waited so long for its turn is told to come back. Clients give up after 300 seconds.
LONGEST_WAIT_SECONDS: Final = 60.0


class Turn:
    """A place in the queue, and then a turn, until `leave`; `async with` waits for it and leaves it.

    Attributes:
        is_waiting: whether it is neither granted nor given up.
        client: whose turn it is, once it is granted.
        began: when it was granted, by the loop's clock.
    """

    __slots__ = ("_came", "_turns", "began", "client", "is_waiting")

    def __init__(self, turns: "Turns") -> None:
        self.is_waiting = True
        self.client: str | None = None
        self.began = 0.0
        self._turns = turns
        self._came: asyncio.Future[None] | None = None

    async def granted(self) -> None:
        """Return when it has come, however long that takes.

        Raises:
            Overloaded: no turn comes any more.
        """
        await self._wait(None)
        if self.is_waiting:
            raise Overloaded("this server is stopping")

    async def wait(self) -> None:
        """Return when it has come.

        Raises:
            StorageError: the turn did not come in time.
        """
        await self._wait(LONGEST_WAIT_SECONDS)
        if self.is_waiting:
            raise StorageError("too many files are waiting to be made or fetched")

    def share(self, client: str) -> None:
        """Add a client that waits for the turn: it comes when the first of its clients is served."""
        self._turns.queue(self, client)

    def leave(self) -> None:
        """Give it up, or say that it is over. Called once or more often."""
        was_waiting, self.is_waiting = self.is_waiting, False
        client, self.client = self.client, None
        if not was_waiting and client is not None:
            self._turns.end(client, self.began)

    def come(self, client: str) -> None:
        """Note that it is the turn of this client now."""
        self.is_waiting = False
        self.client = client
        self.began = asyncio.get_running_loop().time()
        self.wake()

    def wake(self) -> None:
        """Let the task that waits look again."""
        if self._came is not None:
            wake(self._came)

    async def __aenter__(self) -> None:
        try:
            await self.granted()
        except BaseException:
            self.leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    async def _wait(self, seconds: float | None) -> None:
        if self.is_waiting and not self._turns.is_closed:
            self._came = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._came], timeout=seconds)


class Turns:
    """So many at once; a client that has fewer turns than others comes first, of equals the one longest without.

    Args:
        at_once: turns of all clients together.
        per_client: turns of one client; None for as many as there are.
        rest: how long a client waits for its next turn, as a multiple of the last one.

    Attributes:
        free: turns that no client has.
        is_closed: whether no turn comes any more.
    """

    def __init__(self, at_once: int, per_client: int | None = None, rest: float = 0.0) -> None:
        self.free = at_once
        self.is_closed = False
        self._per_client = at_once if per_client is None else per_client
        self._rest = rest
        self._queues: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._running: Counter[str] = Counter()

    @property
    def is_wanted(self) -> bool:
        """Whether a client waits."""
        return any(turn.is_waiting for queue in self._queues.values() for turn in queue)

    def close(self) -> None:
        """Let no turn come any more; those that have come go on. What waits in `granted` is told so at once."""
        self.is_closed = True
        for queue in self._queues.values():
            for turn in queue:
                turn.wake()

    def take(self, client: str) -> Turn:
        """A turn of `client`, at once or later."""
        turn = Turn(self)
        if self._may_begin(client):
            self._begin(turn, client)
        else:
            self.queue(turn, client)
        return turn

    @contextmanager
    def take_now(self, client: str) -> Iterator[bool]:
        """Whether `client` has a turn, which ends with the context; it has none where it would have to wait."""
        if not self._may_begin(client):
            yield False
            return
        turn = self.take(client)
        try:
            yield True
        finally:
            turn.leave()

    def queue(self, turn: Turn, client: str) -> None:
        """Let a turn wait among those of a client."""
        if turn.is_waiting:
            self._queues.setdefault(client, deque()).append(turn)

    def end(self, client: str, began: float) -> None:
        """A turn that began then is over."""
        self.free += 1
        if self._rest:
            loop = asyncio.get_running_loop()
            loop.call_later((loop.time() - began) * self._rest, self._end_rest, client)
        else:
            self._end_rest(client)
        self._serve()

    def _end_rest(self, client: str) -> None:
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]
        if client in self._queues:
            self._queues.move_to_end(client)
        self._serve()

    def _may_begin(self, client: str) -> bool:
        # When a turn is free, each client that waits has all turns of its own: otherwise it would have been let in.
        return not self.is_closed and self.free > 0 and self._running[client] < self._per_client

    def _begin(self, turn: Turn, client: str) -> None:
        self.free -= 1
        self._running[client] += 1
        turn.come(client)

    def _serve(self) -> None:
        while self.free and not self.is_closed and (client := self._next()) is not None:
            self._begin(self._queues[client].popleft(), client)
            self._queues.move_to_end(client)

    def _next(self) -> str | None:
        """The client whose turn is next."""
        found, fewest, empty = None, self._per_client, []
        for client, queue in self._queues.items():
            while queue and not queue[0].is_waiting:
                queue.popleft()
            if not queue:
                empty.append(client)
            elif self._running[client] < fewest:
                found, fewest = client, self._running[client]
                if not fewest:
                    break
        for client in empty:
            del self._queues[client]
        return found
