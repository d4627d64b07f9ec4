"""The local store's facts, read from its database while its nix-daemon answers.

The two questions of a path take the daemon's process and ours together half a millisecond; the row that the daemon
looks at is read in 30 microseconds, and those of all that a path refers to in one go. What the daemon has that the
database has not, as an overlay of stores does, the daemon is asked for.

A database that is found beside the files may be that of another daemon, or a copy. So it is believed only once it has
said of a path what the daemon said, for as long as a connection to that daemon stands, which is a minute at most.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from harmonia_py.errors import DaemonError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.metadata import Look, Looked
from harmonia_py.store.sqlite import SqliteStore

T = TypeVar("T")


class _Said(Struct, frozen=True):
    """The daemon's path info of a path, and the connection on which it was said."""

    connection: object
    hash_part: HashPart
    info: PathInfo


class DaemonAndDatabase:
    """A `StoreMetadata` over both. It closes neither.

    Args:
        daemon: decides whether the store can be told of at all, and whether the database is that of its store.
        database: where the daemon is believed to keep what it knows; it need not be readable.
    """

    def __init__(self, daemon: DaemonStore, database: SqliteStore) -> None:
        self._daemon = daemon
        self._database = database
        # What the daemon said first on a connection. The next question holds the database against it, so a server that
        # no client asks does not open the database, which takes each worker 1.5 MB.
        self._said: _Said | None = None
        # The connection of the daemon that stood when the two last agreed. While it stands the database is read.
        self._agreed: object | None = None
        self._settling: asyncio.Event | None = None
        # A database that cannot be read, or says something else than the daemon, is not asked again on this connection.
        self._unfit: object | None = None

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none."""
        found = await self._find(hash_part, self._database.path_info)
        return found.info if isinstance(found, Looked) else found

    async def look_up(self, hash_part: HashPart, look: Look) -> Looked | None:
        """As in `LooksUp`; the files are looked at when the database is asked."""
        found = await self._find(hash_part, lambda hash_part: self._database.look_up(hash_part, look))
        return Looked(found, None) if isinstance(found, PathInfo) else found

    async def _find(
        self, hash_part: HashPart, read: Callable[[HashPart], Awaitable[PathInfo | Looked | None]]
    ) -> PathInfo | Looked | None:
        """What the database gives to `read`, or what the daemon says."""
        for _ in range(2):  # once for the question to the daemon, and once for the comparison
            if self._settling is not None:
                # Otherwise as many connections as questions would be opened, each of which is a process of the daemon.
                await self._settling.wait()
        if self._daemon.stands(self._agreed):
            found: PathInfo | Looked | None = await self._try(read(hash_part))
            return found if found is not None else await self._daemon.path_info(hash_part)
        if self._settling is not None or self._daemon.stands(self._unfit):
            return await self._daemon.path_info(hash_part)
        self._settling = asyncio.Event()
        try:
            if self._said is None or not self._daemon.stands(self._said.connection):
                return await self._ask_daemon(hash_part)
            await self._compare(self._said)
        finally:
            self._settling.set()
            self._settling = None
        return await self._find(hash_part, read)

    async def beneath(self, info: PathInfo, limit: int) -> Sequence[PathInfo]:
        """Facts about at most `limit` of the paths in the closure of a path; none unless that takes one question.

        Raises:
            DaemonError: the database cannot be read.
        """
        return await self._database.beneath(info, limit) if self._daemon.stands(self._agreed) else ()

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of `output`; None also when the daemon does not keep keys of this kind."""
        return await self._daemon.realisation(output)

    async def all_paths(self) -> Sequence[StorePath]:
        """Every valid path."""
        return await self._daemon.all_paths()

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        """The valid paths that refer to `store_path`."""
        return await self._daemon.referrers(store_path)

    async def aclose(self) -> None:
        """Nothing to give back."""

    async def _ask_daemon(self, hash_part: HashPart) -> PathInfo | None:
        """The daemon's path info of a path, which is noted."""
        info = await self._daemon.path_info(hash_part)
        connection = self._daemon.standing
        if info is not None and connection is not None:
            self._said = _Said(connection, hash_part, info)
        return info

    async def _compare(self, said: "_Said") -> None:
        """Note whether the database says what the daemon said."""
        self._said = None
        agrees = await self._try(self._database.path_info(said.hash_part)) == said.info
        self._agreed, self._unfit = (said.connection, None) if agrees else (None, said.connection)

    async def _try(self, reading: Awaitable[T | None]) -> T | None:
        try:
            return await reading
        except DaemonError:
            self._agreed, self._unfit = None, self._daemon.standing
            return None
