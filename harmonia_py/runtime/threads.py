"""The pools of threads of a process: their names, bounds and purposes. No other module makes one.

A pool begins a thread when there is work and none is free, so an idle worker has a handful. At most, in one worker:

    the local store, served as it is     16 + 2 + 4 + 2 x 1 + 2 + 4 + 1 + 1    = 32
    a directory of kept files    16 + 16 + 4 + 4 + 4 + `cache.jobs` + 5 x 1    = 49 + `cache.jobs`
    a mirror                             4 + 1 + 1 + 1                         =  7, and 48 for a directory of its own
    caches that are pushed to    16 + 1 + 4 + 4 + 4 + 4 + 2 + 1 + 1, and one a core = 37 + cores

A bucket has 16 that upload and one that reads, in place of the 16, 4, 4, 1 and 1 that a directory has for blobs;
copies in front of it have those as well, and four of their own.

Beside them asyncio has threads for what happens seldom (`asyncio.to_thread`), four more than cores, and each catalog
has four, one for each of its connections (`database/sqlite`).
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any, Final, TypeVar

from harmonia_py.errors import StorageError
from harmonia_py.runtime.tasks import retrieve

T = TypeVar("T")

# A disk that has not answered by then will not answer in time for any client.
_DISK_SECONDS: Final = 30.0
# Compressing gives way to answering, and coding downloads to sending them. On Linux niceness belongs to a thread,
# although POSIX says to a process; zstd's own threads inherit it.
_GIVES_WAY: Final = 10
_GIVES_WAY_TO_SENDING: Final = 15


class Pool(Enum):
    """Every pool. Its threads have its name.

    Attributes:
        threads: number of threads at most; 0 where settings or the machine say it.
        niceness: of the threads, by which they give way to others.
    """

    # More than cores: they wait for the disk.
    TRANSFER = ("reads what is sent, and sends it", 16, 0)
    CODE = ("codes downloads while they are sent", 2, _GIVES_WAY_TO_SENDING)

    # Looks at single files, none of which takes longer than the disk does.
    STORE = ("looks at single files of the local store", 4, 0)
    # One look a second, which no other may hold up: every narinfo waits for it.
    KNOWN = ("looks whether the store directory has changed", 1, 0)
    # Most of a scan holds the interpreter's lock; a second thread is for one that waits for the disk.
    SCAN = ("walks trees of the local store", 2, 0)
    # A directory of ten thousand entries takes a walk some ten milliseconds.
    FILES = ("finds files inside store paths", 4, 0)
    EXPLORE = ("makes the index for searches", 1, 0)
    DEBUGINFO = ("makes the index of debug information", 1, 0)
    STORE_DATABASE = ("reads the database of the local store", 1, 0)

    # More of them would only lengthen the disk's queue.
    BLOBS = ("opens and deletes kept files", 4, 0)
    PARTIAL = ("opens files that come in parts", 4, 0)
    SPOOL = ("begins and follows files on their way in", 4, 0)
    # One after the other, as slowly as the period of the scrub allows.
    DIGEST = ("reads kept files once more, to see whether they are right", 0, _GIVES_WAY)
    # They only wait for the disk, and may wait long: many files become durable about as fast as one.
    PUT = ("makes files durable", 16, 0)
    # Names that come while it waits for the disk go together with the next wait.
    NAME = ("makes names of files durable", 1, 0)
    # Files that wait for the disk at the same time share its flushes: of 64 small ones four threads take an eighth of
    # the time of one. Not those of `PUT`, for which pushes wait.
    SYNC = ("makes small files durable together", 4, 0)
    # They only wait for the network.
    UPLOAD = ("uploads files to a bucket", 16, 0)
    # They wait for the disk; one may evict meanwhile.
    HOT = ("keeps and evicts copies of files of a bucket", 2, 0)
    # Deletions and uploads in the bucket wait for these, and not for a copy that becomes durable.
    HOT_FORGET = ("removes copies of what the bucket has no more", 2, 0)
    BUCKET_DIGEST = ("reads files of a bucket once more, to see whether they are right", 0, _GIVES_WAY)
    INTAKE = ("takes first bytes, and ends what comes in", 16, 0)
    RECIPE = ("reads how kept files are made of chunks", 1, 0)
    COMPRESS = ("compresses large NARs", 0, _GIVES_WAY)
    COMPRESS_SMALL = ("compresses NARs that take milliseconds", 1, _GIVES_WAY)

    # They decompress, hash and write; a few more than cores, because writing may wait for the disk.
    MIRROR = ("takes in files of upstreams", 4, 0)
    NARINFO = ("parses and verifies long narinfos", 1, 0)
    RECODE = ("makes zstd files of what is kept as xz", 1, 0)
    IMPORT = ("reads what is imported into the local store", 1, _GIVES_WAY)
    PUSH = ("verifies what is pushed", 0, 0)
    CHUNK = ("makes chunks of NARs", 1, _GIVES_WAY)
    # Of the push client, a process of its own.
    SEND = ("reads and compresses what is pushed from here", 0, 0)
    STORE_IMPORT = ("reads what is pushed to the local store", 2, _GIVES_WAY)

    def __init__(self, purpose: str, threads: int, niceness: int) -> None:
        self.purpose = purpose
        self.threads = threads
        self.niceness = niceness


class Threads(ThreadPoolExecutor):
    """The threads of one pool, begun when they are needed.

    Args:
        pool: has the name and the purpose.
        threads: number of threads at most, where the pool does not say it.
    """

    def __init__(self, pool: Pool, threads: int = 0) -> None:
        give_way = partial(os.nice, pool.niceness) if pool.niceness else None
        super().__init__(pool.threads or threads, pool.name.lower().replace("_", "-"), give_way)

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """The result of `call`. If the caller is cancelled, the thread goes on."""
        return await asyncio.get_running_loop().run_in_executor(self, call, *arguments)

    async def in_time(self, call: Callable[[], T], undo: Callable[[Any], object] | None = None) -> T:
        """The result of `call`; when the caller is gone by then, `undo` takes it, unless it is None.

        Raises:
            StorageError: the disk does not answer.
        """
        future = self.submit(call)
        try:
            async with asyncio.timeout(_DISK_SECONDS):
                return await asyncio.wrap_future(future)
        except (asyncio.CancelledError, TimeoutError) as error:
            if undo is not None:
                future.add_done_callback(partial(_undo, undo))
            if isinstance(error, TimeoutError):
                raise StorageError("the disk does not answer in time") from error
            raise

    def later(self, call: Callable[[], object]) -> None:
        """Run `call` when there is time; its result is of no use."""
        try:
            self.submit(call)
        except RuntimeError:  # the threads have ended, and this is the last that was to be done
            call()

    def give_up(self) -> None:
        """End the threads as soon as their present calls are done; calls that have not begun are dropped."""
        self.shutdown(wait=False, cancel_futures=True)

    async def aclose(self) -> None:
        """End the threads, and wait for them, unless the disk does not answer."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self.shutdown), _DISK_SECONDS)


async def in_thread(
    threads: Executor, call: Callable[..., T], *arguments: object, give_up: Callable[[], None] | None = None
) -> T:
    """The result of `call`. A cancelled caller still waits for the thread: otherwise two could be inside at once.

    `give_up` is called when the caller is cancelled, before it waits, and lets the thread stop soon.
    """
    running = asyncio.get_running_loop().run_in_executor(threads, call, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if give_up is not None:
            give_up()
        while not running.done():
            with suppress(asyncio.CancelledError):  # at the end of a server tasks are cancelled once more
                await asyncio.wait([running])
        retrieve(running)
        raise


def _undo(undo: Callable[[Any], object], future: "Future[Any]") -> None:
    if not future.cancelled() and future.exception() is None and (result := future.result()) is not None:
        undo(result)
