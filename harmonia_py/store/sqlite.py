"""The local store's facts, read from its database: without a daemon, or beside one.

Source: `src/libstore/schema.sql`, `ca-specific-schema.sql` and `local-store.cc` of Nix. Nothing is ever written. One
thread with one connection does all the reading: a look-up takes microseconds, and the event loop must not wait for it.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, TypeVar

from harmonia_py.errors import DaemonProtocolError, DaemonUnreachable, FormatError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import parse_signatures
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.runtime.together import Together
from harmonia_py.store.closure_query import ClosureRows, closure
from harmonia_py.store.database_reader import DatabaseReader
from harmonia_py.store.metadata import Look, Looked
from harmonia_py.store.rows import Row, path_info, text

Value = TypeVar("Value")

# Reading a million paths takes a second or two.
_ALL_PATHS_TIME_LIMIT: Final = 120.0

_PATH_INFO: Final = """
    select valid.path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca,
        (select path from ValidPaths where id = Refs.reference)
    from (select * from ValidPaths where path >= ? order by path limit 1) as valid
    left join Refs on referrer = valid.id
"""
_ALL_PATHS: Final = "select path from ValidPaths"
_REFERRERS: Final = """
    select path from ValidPaths where id in
    (select referrer from Refs where reference = (select id from ValidPaths where path = ?))
"""

# Up to Nix 2.34, when content-addressed derivations are enabled.
_REALISATION: Final = """
    select Realisations.id, path, signatures from Realisations join ValidPaths on outputPath = ValidPaths.id
    where drvPath = ? and outputName = ? order by Realisations.id
"""
_DEPENDENT_REALISATIONS: Final = """
    select drvPath, outputName, path from RealisationsRefs
    join Realisations on realisationReference = Realisations.id join ValidPaths on outputPath = ValidPaths.id
    where referrer = ?
"""
# From Nix 2.35 on.
_BUILD_TRACE: Final = "select outputPath, signatures from BuildTraceV3 where drvPath = ? and outputName = ? order by id"


class SqliteStore:
    """A `StoreMetadata` over a store's `db.sqlite`.

    Raises everywhere:
        DaemonUnreachable: the database cannot be opened or read, or not in time.
        DaemonProtocolError: it is no database of a Nix store, of an unknown schema, or has rows that do not parse.
    """

    def __init__(self, database: Path, store_dir: StoreDir, *, request_timeout: float = 10.0) -> None:
        self._store_dir = store_dir
        self._request_timeout = request_timeout
        self._reader = DatabaseReader(database)
        self._threads = Threads(Pool.STORE_DATABASE)
        # More questions would only wait in the thread's queue, which a cancelled request cannot leave.
        self._turns = asyncio.Semaphore(2)
        self._closed = False
        self._look_ups = Together.in_thread(self._look_up_all, lambda call: self._read(call, self._request_timeout))

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none."""
        found = await self._look_ups.ask((hash_part, None))
        return None if found is None else found.info

    async def look_up(self, hash_part: HashPart, look: Look) -> Looked | None:
        """As in `LooksUp`."""
        return await self._look_ups.ask((hash_part, look))

    async def beneath(self, info: PathInfo, limit: int) -> Sequence[PathInfo]:
        """Facts about at most `limit` of the paths in the closure of a path, the nearest ones."""
        root = (info.store_path,)
        found = await self._read(
            lambda: closure(self._reader.query, root, self._store_dir, limit).all_infos(), self._request_timeout
        )
        return tuple(found.values())

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of `output`; None also when the store has no table for keys of this kind."""
        read = self._build_trace if isinstance(output.derivation, StorePath) else self._realisation
        return await self._read(lambda: read(output), self._request_timeout)

    async def all_paths(self) -> Sequence[StorePath]:
        """Every valid path."""
        return await self._read(lambda: self._paths(_ALL_PATHS), _ALL_PATHS_TIME_LIMIT)

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        """The valid paths that refer to `store_path`."""
        full_path = self._store_dir.join(store_path)
        return await self._read(lambda: self._paths(_REFERRERS, full_path), self._request_timeout)

    async def closure(self, roots: Collection[StorePath]) -> ClosureRows:
        """The valid ones of `roots`, and all that they refer to."""
        return await self._read(lambda: closure(self._reader.query, roots, self._store_dir), _ALL_PATHS_TIME_LIMIT)

    async def select(self, make: Callable[[list[Row]], Value], statement: str, *parameters: object) -> Value:
        """The result of `make`, in the thread, for the rows that a statement finds; it may raise FormatError."""
        return await self._read(lambda: make(self._reader.query(statement, parameters)), self._request_timeout)

    async def aclose(self) -> None:
        """Close the database and end the thread."""
        if self._closed:
            return
        self._closed = True
        await self._threads.run(self._reader.close)
        self._threads.give_up()

    def _paths(self, statement: str, *parameters: object) -> Sequence[StorePath]:
        return [self._store_dir.parse_path(text(path)) for (path,) in self._reader.query(statement, parameters)]

    def _look_up_all(
        self, questions: Sequence[tuple[HashPart, Look | None]]
    ) -> Sequence[Looked | DaemonProtocolError | None]:
        return [self._look_up(hash_part, look) for hash_part, look in questions]

    def _look_up(self, hash_part: HashPart, look: Look | None) -> Looked | DaemonProtocolError | None:
        info = self._path_info(hash_part)
        if not isinstance(info, PathInfo):
            return info
        return Looked(info, None if look is None else look(info.store_path))

    def _path_info(self, hash_part: HashPart) -> PathInfo | DaemonProtocolError | None:
        # The dash: the hash part alone would also find a longer one in a database that is not Nix's.
        prefix = f"{self._store_dir}/{hash_part}-"
        rows = self._reader.query(_PATH_INFO, (prefix,))
        if not rows or not str(rows[0][0]).startswith(prefix):
            return None
        try:
            references = [self._store_dir.parse_path(text(row[-1])) for row in rows if row[-1] is not None]
            path = self._store_dir.parse_path(text(rows[0][0]))
            return path_info(path, rows[0][1:-1], references, self._store_dir)
        except FormatError as error:  # the other questions of the call have answers
            return DaemonProtocolError(f"{prefix}…: a row does not parse: {error}")

    def _realisation(self, output: DrvOutput) -> Realisation | None:
        if "Realisations" not in self._reader.tables():
            return None
        derivation, _, name = str(output).partition("!")
        rows = self._reader.query(_REALISATION, (derivation, name))
        if not rows:
            return None
        id_, path, signatures = rows[0]
        dependencies = {
            DrvOutput.parse(f"{derivation}!{name}"): self._store_dir.parse_path(text(path))
            for derivation, name, path in self._reader.query(_DEPENDENT_REALISATIONS, (id_,))
        }
        return Realisation(
            id=output,
            out_path=self._store_dir.parse_path(text(path)),
            signatures=parse_signatures(text(signatures or "").split()),
            dependent_realisations=tuple(sorted(dependencies.items(), key=lambda item: str(item[0]))),
        )

    def _build_trace(self, output: DrvOutput) -> Realisation | None:
        if "BuildTraceV3" not in self._reader.tables():
            return None
        rows = self._reader.query(_BUILD_TRACE, (output.derivation, output.output_name))
        if not rows:
            return None
        path, signatures = rows[0]
        return Realisation(
            id=output,
            out_path=self._store_dir.parse_path(text(path)),
            signatures=parse_signatures(text(signatures or "").split()),
        )

    async def _read(self, read: Callable[[], Value], time_limit: float) -> Value:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(time_limit):
                await self._turns.acquire()
        except TimeoutError:
            raise DaemonUnreachable("the store's database is busy") from None
        if self._closed:
            self._turns.release()
            raise DaemonUnreachable("the store's database is closed")
        future = loop.run_in_executor(self._threads, self._reader.read, read, time_limit)
        # A cancelled request leaves its turn to the thread, which ends in time by itself.
        future.add_done_callback(lambda _: self._turns.release())
        return await asyncio.shield(future)
