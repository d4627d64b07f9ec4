"""The local store's facts, as its nix-daemon tells them, over a bounded pool of connections.

Every connection is a process on the daemon's side, so there are few of them, opened when they are needed and closed
when they are old: by then the daemon may have been replaced, and it remembers facts that may have changed.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from harmonia_py.errors import DaemonError, DaemonRefused, DaemonUnreachable
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.nix.worker import (
    query_all_valid_paths,
    query_path_from_hash_part,
    query_path_info,
    query_realisation,
    query_referrers,
)
from harmonia_py.store.daemon.connection import CONNECT_SECONDS, Connection
from harmonia_py.store.daemon.daemon_metrics import DaemonMetrics

Value = TypeVar("Value")

# A daemon that does not trust us answers from a memory of path infos that may be as old as its process.
_MAX_AGE: Final = 60.0

# All paths come in one reply of perhaps 100 MB, so that takes longer than anything else.
_ALL_PATHS_TIME_LIMIT: Final = 120.0

# How long a daemon that hangs up instead of telling a realisation is spared the question.
_NO_REALISATIONS_FOR: Final = 60.0


class DaemonStore:
    """A `StoreMetadata` over the nix-daemon's socket.

    Raises everywhere:
        DaemonUnreachable: the daemon does not answer, or not in time; also when every connection stays busy that long.
        DaemonProtocolError: the daemon sends something that is not the worker protocol.
        DaemonRefused: the daemon answers with an error.
    """

    def __init__(
        self,
        socket_path: Path,
        store_dir: StoreDir,
        *,
        connections: int = 4,
        request_timeout: float = 10.0,
        metrics: DaemonMetrics | None = None,
    ) -> None:
        self._metrics = metrics or DaemonMetrics()
        self._socket_path = socket_path
        self._store_dir = store_dir
        self._request_timeout = request_timeout
        self._free = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []
        self._old: set[Connection] = set()
        self._open: set[Connection] = set()
        self._no_realisations_until = -math.inf
        self._closed = False

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none."""

        async def converse(connection: Connection) -> PathInfo | None:
            store_path = await connection.ask(
                query_path_from_hash_part(hash_part, self._store_dir), self._request_timeout
            )
            if store_path is None:
                return None
            return await connection.ask(query_path_info(store_path, self._store_dir), self._request_timeout)

        return await self._converse(converse)

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of `output`; None also for a daemon whose realisations have other keys, or none."""
        if asyncio.get_running_loop().time() < self._no_realisations_until:
            return None
        asked_on = None

        async def converse(connection: Connection) -> Realisation | None:
            nonlocal asked_on
            if not connection.session.knows_realisation(output):
                return None
            asked_on = connection
            exchange = query_realisation(output, connection.session, self._store_dir)
            return await connection.ask(exchange, self._request_timeout)

        try:
            return await self._converse(converse)
        except DaemonUnreachable:
            if asked_on is None or not asked_on.hung_up:
                raise
        # Nix 2.8 without the experimental feature ca-derivations dies of this question. It was sent on a connection
        # that had just been opened, so the daemon is there, and has no realisations.
        self._no_realisations_until = asyncio.get_running_loop().time() + _NO_REALISATIONS_FOR
        return None

    async def all_paths(self) -> Sequence[StorePath]:
        """Every valid path."""
        return await self._converse(
            lambda connection: connection.ask(query_all_valid_paths(self._store_dir), _ALL_PATHS_TIME_LIMIT)
        )

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        """The valid paths that refer to `store_path`."""
        return await self._converse(
            lambda connection: connection.ask(query_referrers(store_path, self._store_dir), self._request_timeout)
        )

    @property
    def standing(self) -> Connection | None:
        """A connection that stands and is not too old to be asked on; None when there is none."""
        return next((connection for connection in self._open if connection not in self._old), None)

    def stands(self, connection: object) -> bool:
        """Whether `connection`, which was `standing` once, still is; None never is."""
        return connection in self._open and connection not in self._old

    async def aclose(self) -> None:
        """Close every connection; a caller that still waits for an answer gets DaemonUnreachable."""
        self._closed = True
        connections = list(self._open)
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.wait_closed()

    async def _converse(self, converse: Callable[[Connection], Awaitable[Value]]) -> Value:
        began = time.perf_counter()
        await self._wait_for_turn()
        try:
            if self._idle:
                # The one used last, so that those not needed grow old.
                connection = self._idle.pop()
                self._metrics.idle.add(-1)
                self._metrics.reused_after.observe(time.perf_counter() - began)
                try:
                    return await self._use(connection, converse)
                except DaemonUnreachable:
                    # The connection had died while it was idle, as after a restart of the daemon: try a fresh one.
                    if not connection.hung_up:
                        raise
            return await self._use(await self._connect(began), converse)
        finally:
            self._free.release()

    async def _wait_for_turn(self) -> None:
        if not self._free.locked():
            await self._free.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(self._request_timeout):
                await self._free.acquire()
        except TimeoutError:
            self._metrics.timed_out_after.observe(self._request_timeout)
            self._metrics.timeouts.add()
            raise DaemonUnreachable("every connection to the nix-daemon is busy") from None

    async def _use(self, connection: Connection, converse: Callable[[Connection], Awaitable[Value]]) -> Value:
        try:
            with self._metrics.active.one_more():
                value = await converse(connection)
        except DaemonRefused:
            self._give_back(connection)
            raise
        except BaseException as error:
            if isinstance(error, DaemonError):
                self._metrics.broken.add()
            connection.close()
            raise
        self._give_back(connection)
        return value

    def _give_back(self, connection: Connection) -> None:
        if connection in self._old:
            connection.close()
        elif not connection.closed:
            self._idle.append(connection)
            self._metrics.idle.add()

    async def _connect(self, began: float) -> Connection:
        try:
            connection = await Connection.open(self._socket_path, CONNECT_SECONDS)
        except DaemonError:
            self._metrics.refused.add()
            self._metrics.creation_failed.add()
            self._metrics.failed_after.observe(time.perf_counter() - began)
            raise
        self._metrics.created.add()
        self._metrics.created_after.observe(time.perf_counter() - began)
        if self._closed:
            connection.close()
            raise DaemonUnreachable("the connections to the nix-daemon are closed")
        timer = asyncio.get_running_loop().call_later(_MAX_AGE, self._grow_old, connection)
        self._open.add(connection)

        def forget() -> None:
            timer.cancel()
            self._open.discard(connection)
            self._old.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
                self._metrics.idle.add(-1)

        connection.on_close = forget
        return connection

    def _grow_old(self, connection: Connection) -> None:
        self._old.add(connection)
        if connection in self._idle:
            connection.close()
