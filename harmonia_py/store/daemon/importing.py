"""Paths into the local store, by way of its nix-daemon, on a connection that answers no client.

The daemon decides whether a path is to be trusted, by its own `trusted-public-keys`, also where it trusts the user that
this process runs as: such a user could tell it not to look (`dontCheckSigs`), and this module never does. The
configuration of this cache says what it may serve; the configuration of Nix says what this machine may run.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from harmonia_py.cache.store_writer import SignatureRefused
from harmonia_py.errors import DaemonRefused, DaemonUnreachable
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.nix.worker import add_to_store_nar, query_path_from_hash_part
from harmonia_py.store.daemon.connection import CONNECT_SECONDS, Connection

# The daemon roots what it adds for as long as the connection lives; it may also have been replaced by then.
_MAX_AGE: Final = 60.0
# A connection is a process of the daemon, which takes memory while it is idle.
_IDLE: Final = 10.0
# Nothing is taken while another process holds the lock of the path, or writes what came before to a slow disk.
_STALL_LIMIT: Final = 60.0
# Once it has everything, the daemon may look for files that are equal, and collect garbage where it keeps space free.
_ADD_LIMIT: Final = 600.0
# `src/libstore/local-store.cc`: up to Nix 2.8, and in later versions.
_NOT_SIGNED: Final = ("because it lacks a valid signature", "because it lacks a signature by a trusted key")


class DaemonWriter:
    """A `StoreWriter`. It adds one path at a time: the caller that adds a second one waits."""

    def __init__(self, socket_path: Path, store_dir: StoreDir, *, request_timeout: float = 10.0) -> None:
        self._socket_path = socket_path
        self._store_dir = store_dir
        self._request_timeout = request_timeout
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._opened = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def missing(self, store_paths: Iterable[StorePath]) -> set[StorePath]:
        """The paths that are not valid at this moment, by the one question that no daemon answers from memory."""
        paths = list(store_paths)
        async with self._turn:
            connection = await self._connect()
            try:
                return await self._missing(connection, paths)
            except DaemonUnreachable:
                # The connection had died while it was idle, as after a restart of the daemon. One fresh one is tried.
                if not connection.hung_up:
                    raise
            return await self._missing(await self._connect(), paths)

    async def add(self, path_info: PathInfo, nar: AsyncIterator[bytes]) -> None:
        """Add a path with its NAR, which is taken as fast as the daemon can; nothing happens when it is valid already.

        An exception of `nar` ends the connection, and the path is not added.

        Raises:
            SignatureRefused: no key that the daemon trusts has signed it, and it is not content-addressed.
            DaemonError: the daemon cannot be reached, or refuses the path for another reason.
        """
        async with self._turn:
            connection = await self._connect()
            exchange = add_to_store_nar(path_info, self._store_dir)
            try:
                await connection.ask_with(exchange, nar, _STALL_LIMIT, _ADD_LIMIT)
            except DaemonRefused as error:
                if any(words in str(error) for words in _NOT_SIGNED):
                    raise SignatureRefused(str(error)) from error
                raise
            finally:
                self._rest()

    async def aclose(self) -> None:
        """End the connection."""
        connection = self._connection
        self._close()
        if connection is not None:
            await connection.wait_closed()

    async def _missing(self, connection: Connection, store_paths: Iterable[StorePath]) -> set[StorePath]:
        missing = set()
        try:
            for store_path in store_paths:
                question = query_path_from_hash_part(store_path.hash_part, self._store_dir)
                if await connection.ask(question, self._request_timeout) != store_path:
                    missing.add(store_path)
        finally:
            self._rest()
        return missing

    async def _connect(self) -> Connection:
        now = asyncio.get_running_loop().time()
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None and not self._connection.closed and now < self._opened + _MAX_AGE:
            return self._connection
        self._close()
        self._connection = await Connection.open(self._socket_path, CONNECT_SECONDS)
        self._opened = now
        return self._connection

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_IDLE, self._close)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class DaemonWriters:
    """A `StoreWriter` that adds several paths at once, each on a connection of its own.

    Args:
        make: makes one of the writers.
        count: of them.
    """

    def __init__(self, make: Callable[[], DaemonWriter], count: int) -> None:
        self._all = [make() for _ in range(count)]
        self._free: asyncio.LifoQueue[DaemonWriter] = asyncio.LifoQueue()
        for writer in self._all:
            self._free.put_nowait(writer)

    async def missing(self, store_paths: Iterable[StorePath]) -> set[StorePath]:
        """As `DaemonWriter.missing`."""
        async with self._writer() as writer:
            return await writer.missing(store_paths)

    async def add(self, path_info: PathInfo, nar: AsyncIterator[bytes]) -> None:
        """As `DaemonWriter.add`."""
        async with self._writer() as writer:
            await writer.add(path_info, nar)

    async def aclose(self) -> None:
        """End all connections."""
        for writer in self._all:
            await writer.aclose()

    @asynccontextmanager
    async def _writer(self) -> AsyncIterator[DaemonWriter]:
        # The one that was used last: the others end their connections when they have been idle for a while.
        writer = await self._free.get()
        try:
            yield writer
        finally:
            self._free.put_nowait(writer)
