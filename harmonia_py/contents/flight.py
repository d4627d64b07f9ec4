"""One file on its way in, in this process: from the first client that wants it until it is kept or given up.

Work leaves with its last client: what waits for its turn at once, what runs after a while, because a client that was
cut comes back; unless it is nearly done.

The last byte of a file whose length clients were told is written when all of it has proved right; a wrong file is never
finished, and every reader is cut.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final

from msgspec import Struct

from harmonia_py.contents.blobs import BlobKey, SpooledFile
from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.incoming import Incoming, Lane, Producer, Want
from harmonia_py.contents.memory import MemoryFull
from harmonia_py.contents.spool import SpoolWriter
from harmonia_py.contents.storage import NotKept, Storage
from harmonia_py.contents.writing import Begun, Writing
from harmonia_py.errors import HarmoniaError, StorageError
from harmonia_py.runtime.tasks import retrieve
from harmonia_py.runtime.threads import in_thread
from harmonia_py.runtime.turns import Turn

# A client that was cut asks again within a few seconds.
_ABANDONED_SECONDS: Final = 5.0


class Elsewhere(Exception):
    """Another process takes the file in, or has just done so."""


class Resources(Struct, frozen=True):
    """The things that all files share which come in.

    Attributes:
        storage: where it is kept.
        threads: wait for the disk, and are soon free.
        puts: bounds how many files are whole and on their way to the disk.
        reserve: sees that bytes stay that are kept under a key from now on.
    """

    storage: Storage
    threads: Executor
    puts: asyncio.Semaphore
    reserve: Callable[[BlobKey], Awaitable[None]]


class Flight:
    """One file on its way in.

    Args:
        key: of the file.
        want: finds out what comes in.
        resources: what it shares with others.
        before: a flight of this key that is over; what became of it is known when it has ended.

    Attributes:
        key: of the file.
        lane: where it is; None as long as that is not known.
        is_over: whether the file is kept or given up, and only traces of the work are left.
        task: does the work; True when the file is kept, False when there is no such thing.
    """

    def __init__(self, key: BlobKey, want: Want, resources: Resources, before: "Flight | None") -> None:
        self.key = key
        self.lane: Lane | None = None
        self.is_over = False
        self._is_poured = False
        self._want = want
        self._resources = resources
        self._begun: asyncio.Future[Begun | None] = asyncio.get_running_loop().create_future()
        self._clients = 0
        self._names: set[str] = set()
        self._turn: Turn | None = None
        self._writing: Writing | None = None
        self._watching: asyncio.Task[None] | None = None
        self.task = asyncio.create_task(self._run(before))
        self.task.add_done_callback(retrieve)

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are here: only keeping the file is left."""
        return self._is_poured or (self._writing is not None and self._writing.is_whole)

    def join(self, client: str) -> None:
        """One more client wants it; each that has joined leaves once."""
        self._clients += 1
        if client not in self._names:
            self._names.add(client)
            if self._turn is not None:
                self._turn.share(client)

    def leave(self) -> None:
        """A client does not want it any more, or has it."""
        self._clients -= 1
        if self._clients or self.is_over:
            return
        if self._writing is None:
            self._give_up()
        elif self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def begins(self) -> Begun | None:
        """The facts when the first bytes are there; None when there is no such file.

        Raises:
            Elsewhere: it is not this process that takes it in.
            NotKept: nothing can be kept.
            HarmoniaError: it cannot be had.
        """
        return await asyncio.shield(self._begun)

    async def ends(self) -> bool:
        """Whether there is such a thing, once it is kept. Raises what `begins` raises."""
        return await asyncio.shield(self.task)

    def _give_up(self) -> None:
        self.is_over = True
        self.task.cancel()

    async def _watch(self) -> None:
        """Give the file up when it has had no client for a while."""
        while not self._clients and not self.is_over:
            await asyncio.sleep(_ABANDONED_SECONDS)
            writing = self._writing
            if self._clients or self.is_over or writing is None or not writing.is_worth_giving_up():
                continue
            followed = await in_thread(self._resources.threads, writing.writer.is_followed)
            if not followed and not self._clients and not self.is_over:
                self._give_up()
        self._watching = None

    async def _run(self, before: "Flight | None") -> bool:
        try:
            if before is not None:
                await asyncio.wait([before.task])
            incoming = await self._want()
            found = incoming is not None and await self._take_in(incoming)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self.is_over = True
            if self._turn is not None:
                self._turn.leave()
            if self._watching is not None:
                self._watching.cancel()
            # It leads back here, and holds the buffers of a compressor: they are not to wait for a search for cycles.
            self._writing = None
        self._begin(None)
        return found

    async def _take_in(self, incoming: Incoming) -> bool:
        self.lane = incoming.lane
        await self._wait_for_turn(incoming.lane)
        storage = self._resources.storage
        writer = await storage.begin(self.key, incoming.room)
        if writer is None:
            raise Elsewhere
        try:
            # Another process may have kept it since it was looked for.
            if await storage.metadata(self.key) is not None:
                raise Elsewhere
            return await self._write(incoming, writer)
        finally:
            await in_thread(self._resources.threads, writer.close)

    async def _wait_for_turn(self, lane: Lane) -> None:
        self._turn = lane.turns.take(next(iter(self._names), ""))
        for client in self._names:
            self._turn.share(client)
        await self._turn.wait()

    async def _write(self, incoming: Incoming, writer: SpoolWriter) -> bool:
        try:
            source = await incoming.open()
            if source is None:
                return False
            try:
                writing = self._writing = Writing(incoming, source, writer, self._begin)
                await self._pour(incoming.lane, source, writing)
                self._is_poured = True
                file = writing.file
                if file is None:
                    file = await in_thread(incoming.lane.threads, writing.finish)
            finally:
                source.close()
            await self._put(file, writing.check)
        except HarmoniaError as error:
            self._fail(error)
            await incoming.failed(error)
            raise
        self.is_over = True
        await incoming.kept()
        return True

    async def _pour(self, lane: Lane, source: Producer, writing: Writing) -> None:
        # The first bytes, for which a client waits, do not queue behind work that takes long.
        threads = lane.first or lane.threads
        while True:
            try:
                if not await source.pour(writing.take, threads):
                    return
            except MemoryFull as full:
                await full.wait()
                await in_thread(lane.threads, writing.take, b"")
            threads = lane.threads

    async def _put(self, file: SpooledFile, check: FileCheck) -> None:
        async with self._resources.puts:
            assert self._turn is not None
            self._turn.leave()
            await self._resources.reserve(self.key)
            try:
                await self._resources.storage.put(self.key, file, check.metadata())
            except NotKept as error:
                raise StorageError("the file cannot be kept") from error

    def _begin(self, begun: Begun | None) -> None:
        if not self._begun.done():
            self._begun.set_result(begun)

    def _fail(self, error: BaseException) -> None:
        self.is_over = True
        if not self._begun.done():
            known = isinstance(error, HarmoniaError | NotKept | Elsewhere)
            self._begun.set_exception(error if known else StorageError("the file was given up"))
            retrieve(self._begun)
