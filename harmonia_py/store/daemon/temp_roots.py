"""Temporary roots: a store path that is being sent is not collected.

The daemon keeps a temporary root until the connection on which it was added closes, and roots add up. So they are
added on connections of their own, one generation after the other: a generation takes new roots for a minute, then it
is closed as soon as nothing of it is being sent. Soon after the last download of a generation, the garbage collector
can delete its paths.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from harmonia_py.errors import DaemonError, DaemonUnreachable
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.nix.worker import add_temp_root, query_path_from_hash_part
from harmonia_py.runtime.tasks import SingleFlight
from harmonia_py.store.daemon.connection import CONNECT_SECONDS, Connection

_LOG: Final = logging.getLogger(__name__)

# How long a path may stay rooted after its download, at most; a new process of the daemon per minute costs nothing.
_MAX_AGE: Final = 60.0

# The garbage collector reads every root of every process: with more, generations change faster.
_MAX_PATHS: Final = 10_000

# Downloads that take hours hold old generations open. Beyond this number the newest one takes all new roots.
_MAX_GENERATIONS: Final = 4


class _Generation(Struct, eq=False):
    """A connection and the roots on it.

    Attributes:
        roots: the paths that are rooted, and were valid after that.
        adding: the conversations that add roots, by path. They are tasks: a client that leaves does not end them.
        leases: number of downloads that are protected or about to be.
        retired: takes no new roots, and ends with its last lease.
    """

    roots: set[StorePath] = field(default_factory=set)
    adding: SingleFlight[StorePath, bool] = field(default_factory=SingleFlight)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: Connection | None = None
    timer: asyncio.TimerHandle | None = None
    leases: int = 0
    retired: bool = False


class TempRoots:
    """Protects paths from the garbage collector, by way of the nix-daemon.

    When the daemon's processes are killed, the paths that they protected lose their protection; paths that are acquired
    later are protected by new connections.
    """

    def __init__(self, socket_path: Path, store_dir: StoreDir, *, request_timeout: float = 10.0) -> None:
        self._socket_path = socket_path
        self._store_dir = store_dir
        self._request_timeout = request_timeout
        self._current: _Generation | None = None
        # The generations that protect something, or will; a generation that is not in here any more has ended.
        self._generations: set[_Generation] = set()
        self._closed = False

    async def acquire(self, store_path: StorePath) -> Callable[[], None] | None:
        """Protect `store_path`. Returns a function that ends the protection; None when the path is not valid any more.

        The function does not wait, may be called more than once, and must be called on the event loop's thread.

        Raises:
            DaemonError: the daemon cannot be asked, or not in time.
        """
        generation = self._generation()
        try:
            return await self._acquire(generation, store_path)
        except DaemonUnreachable:
            if generation.connection is None or not generation.connection.hung_up:
                raise
        # The connection had died while it was idle, as after a restart of the daemon. One fresh one is tried.
        return await self._acquire(self._generation(), store_path)

    async def _acquire(self, generation: _Generation, store_path: StorePath) -> Callable[[], None] | None:
        generation.leases += 1
        with ExitStack() as held:
            held.callback(self._drop, generation)
            # For a path that is rooted already the daemon need not be asked: it cannot have been deleted since.
            valid = store_path in generation.roots or await generation.adding.do(
                store_path, lambda: self._converse(generation, store_path)
            )
            return held.pop_all().close if valid else None

    async def aclose(self) -> None:
        """End every protection."""
        self._closed = True
        generations = list(self._generations)
        for generation in generations:
            self._end(generation)
        for generation in generations:
            await generation.adding.wait()
            if generation.connection is not None:
                await generation.connection.wait_closed()

    def _generation(self) -> _Generation:
        if self._closed:
            raise DaemonUnreachable("the connections to the nix-daemon are closed")
        if self._current is not None and len(self._current.roots) >= _MAX_PATHS:
            self._retire(self._current)
        if self._current is None:
            self._current = _Generation()
            self._generations.add(self._current)
            self._grow_older(self._current)
        return self._current

    def _grow_older(self, generation: _Generation) -> None:
        generation.timer = asyncio.get_running_loop().call_later(_MAX_AGE, self._come_of_age, generation)

    def _come_of_age(self, generation: _Generation) -> None:
        self._retire(generation)
        if not generation.retired:
            self._grow_older(generation)

    def _retire(self, generation: _Generation) -> None:
        if generation.leases > 0 and len(self._generations) >= _MAX_GENERATIONS:
            return  # the older ones must end first
        generation.retired = True
        if self._current is generation:
            self._current = None
        if generation.leases == 0:
            self._end(generation)

    async def _converse(self, generation: _Generation, store_path: StorePath) -> bool:
        async with generation.turn:
            connection = await self._connection(generation)
            await connection.ask(add_temp_root(store_path, self._store_dir), self._request_timeout)
            # Before the root was there the path may have been collected. The daemon never answers this from memory.
            exchange = query_path_from_hash_part(store_path.hash_part, self._store_dir)
            if await connection.ask(exchange, self._request_timeout) != store_path:
                return False
            generation.roots.add(store_path)
            return True

    async def _connection(self, generation: _Generation) -> Connection:
        if generation.connection is not None:
            return generation.connection
        if generation not in self._generations:
            raise DaemonUnreachable("the connection to the nix-daemon could not be opened")
        try:
            connection = await Connection.open(self._socket_path, CONNECT_SECONDS)
        except DaemonError:
            self._end(generation)
            raise
        generation.connection = connection
        connection.on_close = lambda: self._lose(generation)
        if generation not in self._generations:
            connection.close()
        return connection

    def _drop(self, generation: _Generation) -> None:
        generation.leases -= 1
        if generation.retired and generation.leases == 0:
            self._end(generation)

    def _lose(self, generation: _Generation) -> None:
        if generation in self._generations and generation.leases > 0:
            _LOG.warning(
                "a connection to the nix-daemon ended: %d downloads are not protected from garbage collection any more",
                generation.leases,
            )
        self._end(generation)

    def _end(self, generation: _Generation) -> None:
        generation.retired = True
        self._generations.discard(generation)
        if self._current is generation:
            self._current = None
        if generation.timer is not None:
            generation.timer.cancel()
        if generation.connection is not None:
            generation.connection.close()
