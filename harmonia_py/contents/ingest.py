"""The one way in for bytes that become a kept file: producer, check, re-coding, spool, blob.

Over all processes one of them takes a file in, and every client that wants it meanwhile reads it as it grows, the one
that came first included.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final, Protocol, Self

from harmonia_py.cache.source import UNNAMED, Asker, Download, Piece
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.flight import Elsewhere, Flight, Resources
from harmonia_py.contents.incoming import Lane, Want
from harmonia_py.contents.passthrough import Passthrough
from harmonia_py.contents.spool import GrowingFile
from harmonia_py.contents.storage import NotKept, Storage
from harmonia_py.contents.writing import Begun
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Counter
from harmonia_py.runtime.threads import Pool, Threads

# How long a request waits for the first byte of a file that another process takes in.
_BEGIN_SECONDS: Final = 60.0
# Of files whose bytes are all here: to make them durable, and to name them. A worker that stops has five seconds, in
# which it may wait so long four times: for downloads, what is re-coded, what is compressed, and the rest.
_KEEP_SECONDS: Final = 1.0
# Between being told that another process has a file and finding it there, or gone, lies a rename.
_RETRY_SECONDS: Final = 0.005
# A client that resumes waits so long at most for the rest of the file; then it gets all of it, as it comes.
_WHOLE_SECONDS: Final = 60.0


async def _no_garbage(_key: BlobKey) -> None:
    return


class Tally(Protocol):
    """Counts downloads of files that were there, or that another request had begun."""

    @property
    def hits(self) -> Counter: ...  # noqa: D102  # see the class

    @property
    def followed(self) -> Counter: ...  # noqa: D102  # see the class


class Intake:
    """The intake of one storage: files of any producer come in by it.

    Args:
        storage: that keeps the files.
        reserve: makes bytes that are put under a key from now on stay, even if older ones there are garbage.

    Attributes:
        storage: as given.
        threads: wait for the disk alone, and are soon free.
    """

    def __init__(self, storage: Storage, reserve: Callable[[BlobKey], Awaitable[None]] = _no_garbage) -> None:
        self.storage = storage
        self._flights: dict[BlobKey, Flight] = {}
        self._tasks: dict[asyncio.Task[bool], Flight] = {}
        self._passing: dict[asyncio.Future[None], Lane] = {}
        self.threads = Threads(Pool.INTAKE)
        # Files that are whole and on their way to the disk do not keep others from coming in, unless the disk cannot
        # keep up.
        self._resources = Resources(storage, self.threads, asyncio.Semaphore(Pool.PUT.threads), reserve)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give up what comes in, and end the threads."""
        await self.abandon(*[flight.lane for flight in self._tasks.values()])
        await self.threads.aclose()

    async def abandon(self, *lanes: Lane | None) -> None:
        """Give up what comes in on these lanes, or may do so. Then they may be closed."""
        # A task that has just begun must run before it is cancelled: one that never ran gives nothing back.
        await asyncio.sleep(0)
        tasks = [task for task, flight in self._tasks.items() if flight.lane is None or flight.lane in lanes]
        # All bytes are here: only keeping and entering the file is left, without which it would be made again.
        whole = [task for task in tasks if self._tasks[task].is_whole]
        if whole:
            await asyncio.wait(whole, timeout=_KEEP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def idle(self, *lanes: Lane) -> None:
        """Wait until nothing comes in on these lanes, nor passes through; on any lane, when none is named."""
        while running := self._running(lanes):
            await asyncio.wait(running)

    def _running(self, lanes: Collection[Lane]) -> set[asyncio.Future[Any]]:
        where: dict[asyncio.Future[Any], Lane | None] = {**self._passing}
        where |= {task: flight.lane for task, flight in self._tasks.items()}
        return {future for future, lane in where.items() if not lanes or lane is None or lane in lanes}

    async def settled(self, key: BlobKey) -> None:
        """Wait until a file that this process takes in is kept or given up."""
        flight = self._flights.get(key)
        if flight is not None:
            await asyncio.wait([flight.task])

    async def open(self, key: BlobKey, want: Want, tally: Tally, asker: Asker = UNNAMED) -> Download | None:
        """The file, whole or as it comes in; None when there is no such thing.

        Args:
            key: its name.
            want: called when it has to come in.
            tally: counts.
            asker: the client that wants it, and whether it may come in if it is not there.

        Raises:
            NotKept: it cannot come in, because nothing can be kept; it may still pass through.
            HarmoniaError: it cannot be had.
        """
        deadline = time.monotonic() + _BEGIN_SECONDS
        while time.monotonic() < deadline:
            flight = self._flights.get(key)
            if flight is None or flight.is_over:
                found = await self._at_hand(key, tally)
                if found is not None:
                    return found
                flight = self._flights.get(key)
            if not asker.begins:
                return await _promised(want)
            is_first = flight is None or flight.is_over
            flight = self._join(key, want, asker.client)
            with suppress(Elsewhere), ExitStack() as held:
                held.callback(flight.leave)
                begun = await flight.begins()
                found = None if begun is None else await self._follow(key, begun, held)
                if begun is None or found is not None:
                    if found is not None and not is_first:
                        tally.followed.add()
                    return found
            await asyncio.sleep(_RETRY_SECONDS)
        raise StorageError("a file is neither there nor can it be begun")

    async def keep(self, key: BlobKey, want: Want) -> bool:
        """Take a file in unless it is kept already; False when its source does not have it.

        Raises:
            HarmoniaError: it cannot be had, or not be kept.
        """
        try:
            while await self.storage.metadata(key) is None:
                flight = self._join(key, want, "")
                try:
                    if not await flight.ends():
                        return False
                except Elsewhere:
                    await self._closed(key)
                finally:
                    flight.leave()
        except NotKept as error:
            raise StorageError("the file cannot be kept") from error
        return True

    async def pass_through(self, want: Want, asker: Asker = UNNAMED) -> Download | None:
        """A download for one client alone, where nothing can be kept; None when there is no such thing.

        Raises:
            HarmoniaError: it cannot be had.
        """
        if not asker.begins:
            return await _promised(want)
        incoming = await want()
        if incoming is None:
            return None
        with ExitStack() as held:
            turn = incoming.lane.turns.take(asker.client)
            held.callback(turn.leave)
            await turn.wait()
            source = await incoming.open()
            if source is None:
                return None
            passage = Passthrough(incoming, source)
            held.callback(passage.close)
            passing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._passing[passing] = incoming.lane
            passing.add_done_callback(self._passing.__delitem__)
            held.callback(passing.cancel)
            return Download(
                size=incoming.size,
                etag=secrets.token_hex(16),
                pieces=passage.pieces,
                release=held.pop_all().close,
            )

    async def _at_hand(self, key: BlobKey, tally: Tally) -> Download | None:
        """The file, when it is whole, or when another process takes it in; None also when this process does by now."""
        blob = await self.storage.open(key)
        if blob is not None:
            tally.hits.add()
            return blob.download(secrets.token_hex(16))
        growing = await self.storage.follow(key)
        if growing is None:
            return None
        with ExitStack() as held:
            held.callback(growing.release)
            flight = self._flights.get(key)
            if flight is not None and not flight.is_over:
                # Another request has begun it since this one looked, and the flight knows its size: without that a
                # client that wants the first byte would get all of the file, as it comes.
                return None
            # No client is told that there is something before there is.
            async with asyncio.timeout(_BEGIN_SECONDS):
                if not await growing.reaches_beyond(0):
                    return None
            tally.followed.add()
            return self._growing(key, growing, None, held.pop_all().close)

    async def _follow(self, key: BlobKey, begun: Begun, held: ExitStack) -> Download | None:
        """The growing file for a client, with what is held for it; None when it is whole by now, or was given up."""
        if begun.whole is not None:
            return Download.of_bytes(begun.whole, begun.file_hash)
        growing = await self.storage.follow(key)
        if growing is None:
            return None
        held.callback(growing.release)
        return self._growing(key, growing, begun.size, held.pop_all().close)

    def _growing(self, key: BlobKey, growing: GrowingFile, size: int | None, release: Callable[[], None]) -> Download:
        # The hash of a file that grows has not been verified: any tag that is unique will do.
        return Download(
            size=size,
            etag=secrets.token_hex(16),
            pieces=growing.pieces,
            whole=partial(self._whole, key) if size is None else None,
            release=release,
        )

    async def _whole(self, key: BlobKey) -> Download | None:
        """The file once it is whole, whichever process takes it in; None when it is given up or takes too long."""
        flight = self._flights.get(key)
        with ExitStack() as held, suppress(NotKept, TimeoutError):
            if flight is not None and not flight.is_over:
                flight.join("")
                held.callback(flight.leave)
            async with asyncio.timeout(_WHOLE_SECONDS):
                await self._closed(key)
                blob = await self.storage.open(key)
            return None if blob is None else blob.download(secrets.token_hex(16))
        return None

    async def _closed(self, key: BlobKey) -> None:
        """Wait until no process writes the file any more."""
        growing = await self.storage.follow(key)
        if growing is not None:
            try:
                await growing.closed()
            finally:
                growing.release()

    def _join(self, key: BlobKey, want: Want, client: str) -> Flight:
        """The flight of this key, with one client more."""
        flight = self._flights.get(key)
        if flight is None or flight.is_over:
            flight = self._flights[key] = Flight(key, want, self._resources, flight)
            self._tasks[flight.task] = flight
            flight.task.add_done_callback(self._forget)
        flight.join(client)
        return flight

    def _forget(self, task: asyncio.Task[bool]) -> None:
        flight = self._tasks.pop(task)
        # One that has given its file up may be followed by another before it gets here.
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


async def _promised(want: Want) -> Download | None:
    """The facts of a file that could come in."""
    incoming = await want()
    if incoming is None:
        return None
    return Download(size=incoming.size, etag=secrets.token_hex(16), pieces=_no_pieces, whole=_no_whole)


def _no_pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
    raise StorageError("a file was not asked to come in")


async def _no_whole() -> Download | None:
    return None
