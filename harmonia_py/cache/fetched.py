"""Files of upstreams as downloads: kept, as they grow, or, where nothing can be kept, as they come.

Over all processes one fetches a file, and whoever wants it meanwhile reads it as it grows.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Final

from harmonia_py.cache.asking import Nobody, Panel
from harmonia_py.cache.blobs import Blob, BlobKey
from harmonia_py.cache.fetch import Fetch, Wanted, agreed_size
from harmonia_py.cache.kept import KeptFiles, NotKept
from harmonia_py.cache.mirror_figures import MirrorCounters
from harmonia_py.cache.passing import Passage
from harmonia_py.cache.remembered import NarinfoMemory
from harmonia_py.cache.source import Download, Pause
from harmonia_py.cache.stream import Stream
from harmonia_py.errors import HarmoniaError, StorageError

_log = logging.getLogger(__name__)

# As in `compressed`: whoever loses the race for a file tries again.
_ATTEMPTS: Final = 100
_RETRY_SECONDS: Final = 0.005
# So long a request waits for another process to get the first byte of a file.
_BEGIN_SECONDS: Final = 60.0
# A download that has waited so long for its turn is told to come back.
_TURN_SECONDS: Final = 60.0
# They decompress, hash and write; a few more than cores, because writing may wait for the disk.
_THREADS: Final = 4
# They wait for the disk alone: many files become durable about as fast as one, and nobody waits for that.
_COMMITTERS: Final = 16

Want = Callable[[], Awaitable[Wanted | None]]
"""Finds out what to fetch, when it has to be fetched; None when there is no such thing."""


class FetchedFiles:
    """See the module's docstring.

    Args:
        panel: says what becomes of what nobody can tell.
        kept: where files are kept.
        memory: of what is absent.
        counters: what is counted.
        downloads: from upstreams, at once.
    """

    def __init__(
        self, panel: Panel, kept: KeptFiles, memory: NarinfoMemory, counters: MirrorCounters, *, downloads: int
    ) -> None:
        self._panel = panel
        self._kept = kept
        self._memory = memory
        self._counters = counters
        self._turns = asyncio.Semaphore(downloads)
        self._threads = ThreadPoolExecutor(_THREADS, "mirror")
        self._committers = ThreadPoolExecutor(_COMMITTERS, "keep")
        self._running: dict[BlobKey, Fetch] = {}
        self._tasks: dict[Fetch, asyncio.Task[None]] = {}
        self._passing: set[asyncio.Future[None]] = set()

    async def aclose(self) -> None:
        """Give up what is being fetched."""
        # What has just been begun gets as far as to its end: a task that never ran gives nothing back.
        await asyncio.sleep(0)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for threads in (self._threads, self._committers):
            await asyncio.to_thread(threads.shutdown)

    async def idle(self) -> None:
        """Wait until nothing comes from an upstream."""
        while waiting := {*self._tasks.values(), *self._passing}:
            await asyncio.wait(waiting)

    async def settle(self, key: BlobKey) -> None:
        """Wait until a file that is being fetched by this process is kept or given up."""
        fetch = self._running.get(key)
        if fetch is not None:
            await asyncio.wait([self._tasks[fetch]])

    async def serve(self, key: BlobKey, want: Want) -> Download | None:
        """The file that is kept under `key`, or that `want` finds; None when no upstream has it.

        Raises:
            UpstreamError: it cannot be had.
            StorageError: there is no room for another download.
        """
        if self._memory.is_absent(key):
            return None
        try:
            found = await self._serve_somehow(key, want)
        except Nobody:
            if not self._panel.unknown_is_not_found:
                raise
            return None
        if found is None:
            self._memory.note_absent(key)
        return found

    async def _serve_somehow(self, key: BlobKey, want: Want) -> Download | None:
        try:
            return await self._serve_kept(key, want)
        except NotKept:
            wanted = await want()
            return None if wanted is None else await self._pass(wanted)

    async def _serve_kept(self, key: BlobKey, want: Want) -> Download | None:
        deadline = time.monotonic() + _BEGIN_SECONDS
        for _ in range(_ATTEMPTS):
            fetch = self._running.get(key)
            if fetch is None:
                blob = await self._kept.open(key)
                if blob is not None and (blob.size is not None or await _has_begun(blob)):
                    return self._join(key, blob, None)
                if time.monotonic() >= deadline:
                    break
                wanted = await want()
                if wanted is None:
                    return None
                fetch = await self._begin(key, wanted)
            if fetch is None:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            started = await asyncio.shield(fetch.started)
            if started is None:
                return None
            if started.whole is not None:
                self._counters.followed.add()
                return Download.of_bytes(started.whole, started.file_hash.removeprefix("sha256:"))
            blob = await self._kept.open(key)
            if blob is not None:
                return self._join(key, blob, started.size)
        raise StorageError("a file is neither there nor can it be begun")

    async def _begin(self, key: BlobKey, wanted: Wanted) -> Fetch | None:
        """Begin a download; None when somebody else has begun it."""
        await self._take_turn()
        try:
            writer = None if key in self._running else await self._kept.put(key, wanted.room)
            if writer is None:
                self._turns.release()
                return None
        except BaseException:
            self._turns.release()
            raise
        fetch = self._running[key] = Fetch(wanted, writer, self._threads, self._committers)
        self._tasks[fetch] = asyncio.create_task(self._run(key, fetch, wanted))
        return fetch

    async def _run(self, key: BlobKey, fetch: Fetch, wanted: Wanted) -> None:
        """One file from its first byte to its end, whoever leaves."""
        try:
            if await fetch.run():
                self._counters.fetched.add()
                await wanted.arrived()
        except HarmoniaError as error:
            self._counters.failures.add()
            _log.warning("%s: not kept: %s", key, error)
        finally:
            del self._tasks[fetch]
            # One that has given its file up may be followed by another before it gets here.
            if self._running.get(key) is fetch:
                del self._running[key]
            self._turns.release()

    async def _pass(self, wanted: Wanted) -> Download | None:
        """A download for one client alone, where nothing can be kept."""
        await self._take_turn()
        with ExitStack() as held:
            held.callback(self._turns.release)
            body = await wanted.open(None)
            if body is None:
                return None
            stream = Stream(body, wanted.open)
            held.callback(stream.close)
            size = agreed_size(body, wanted.expected_size)
            if not wanted.as_it_comes:
                size = None
            passage = Passage(stream, wanted.check(), size)
            held.callback(passage.close)
            passing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._passing.add(passing)
            passing.add_done_callback(self._passing.discard)
            held.callback(passing.set_result, None)
            self._counters.passed.add()
            return Download(
                size=size,
                etag=secrets.token_hex(16),
                pieces=passage.pieces,
                release=held.pop_all().close,
            )

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise StorageError("too many downloads from upstreams are under way") from None

    def _join(self, key: BlobKey, blob: Blob, size: int | None) -> Download:
        if blob.size is None:
            self._counters.followed.add()
        else:
            self._counters.hits.add()
        # The hash of a file that grows has not been verified: any tag that is unique will do.
        etag = blob.metadata.get("file_hash", secrets.token_hex(16)).removeprefix("sha256:")
        known = size if blob.size is None else blob.size
        return Download(
            size=known,
            etag=etag,
            pieces=blob.pieces,
            file=blob.file,
            redirect=blob.redirect,
            whole=partial(self._whole, key) if known is None else None,
            release=blob.release,
        )

    async def _whole(self, key: BlobKey) -> Download | None:
        blob = await self._kept.whole(key)
        return None if blob is None else self._join(key, blob, blob.size)


async def _has_begun(blob: Blob) -> bool:
    """Wait for the first byte of a file that another process fetches; False, and released, when it gives up."""
    try:
        async with asyncio.timeout(_BEGIN_SECONDS):
            for piece in blob.pieces(0, 1):
                if not isinstance(piece, Pause):
                    return True
                await asyncio.sleep(piece.seconds)
            return True
    except (StorageError, TimeoutError):
        blob.release()
        return False
    except BaseException:
        blob.release()
        raise
