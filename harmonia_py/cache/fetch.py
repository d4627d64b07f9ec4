"""One file on its way from an upstream into the blob store, verified as it comes.

Every client, the one that came first included, reads the blob as it grows. So nobody waits for the end, and a client
that leaves cancels nothing. The last byte of a file whose length the clients were told is written when all of it has
proved right: of a wrong one every connection is cut.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from harmonia_py.cache.blobs import BlobWriter
from harmonia_py.cache.file_check import FileCheck
from harmonia_py.cache.stream import Stream
from harmonia_py.cache.threads import in_thread
from harmonia_py.cache.upstream import Body, Resume
from harmonia_py.errors import FormatError, HarmoniaError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable

# What is no larger and comes at once is verified before its first byte is sent.
_SMALL_BYTES: Final = 256 * 1024


class Wanted(Protocol):
    """A file that some upstream should have."""

    async def open(self, resume: Resume | None) -> Body | None:
        """The file from its beginning, or the rest of it from where it was opened before; None when nobody has it."""

    @property
    def expected_size(self) -> int | None:
        """Its length, when the upstream that was opened told it beforehand."""

    @property
    def as_it_comes(self) -> bool:
        """Whether what is offered is the upstream's file, and not another one made of it."""

    def check(self) -> FileCheck:
        """What to hold it against; asked for when it is open."""

    @property
    def room(self) -> int:
        """What the offered file takes at most, more or less."""

    def blame(self, error: UpstreamError) -> None:
        """What was opened proved to be wrong, or could not be read to its end."""

    async def arrived(self) -> None:
        """The offered file is kept."""


@dataclass(frozen=True, slots=True)
class Started:
    """What is known when the first bytes are there; None in its place means that the upstream does not have it.

    Attributes:
        size: of the offered file, when it is known.
        whole: all of it, verified, when it is small and came at once.
        file_hash: of `whole`.
    """

    size: int | None
    whole: bytes | None = None
    file_hash: str = ""


class Fetch:
    """One download, from its first byte to its commit.

    Args:
        wanted: the file.
        writer: nobody else uses it.
        threads: compute and write.
        committers: wait for the disk, and are soon free.

    Attributes:
        started: what is known when the first bytes are there; None when no upstream has it.
    """

    def __init__(self, wanted: Wanted, writer: BlobWriter, threads: Executor, committers: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started | None] = self._loop.create_future()
        self._wanted = wanted
        self._writer = writer
        self._threads = threads
        self._committers = committers
        self._written = 0
        self._written_first = False
        self._held = b""
        self._whole = b""

    async def run(self) -> bool:
        """Fetch it, whoever leaves; False when the upstream does not have it.

        Raises:
            UpstreamError: it cannot be had, or is not what it should be. Nothing is kept.
            StorageError: it cannot be kept.
        """
        try:
            return await self._run()
        except BaseException as error:
            if isinstance(error, UpstreamError):
                self._wanted.blame(error)
            if not self.started.done():
                failure = (
                    error if isinstance(error, HarmoniaError) else UpstreamUnreachable("the download was given up")
                )
                self.started.set_exception(failure)
                self.started.exception()  # often nobody waits for it
            raise
        finally:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, self._writer.abort))

    async def _run(self) -> bool:
        body = await self._wanted.open(None)
        if body is None:
            await in_thread(self._threads, self._writer.abort)
            self.started.set_result(None)
            return False
        stream = Stream(body, self._wanted.open)
        try:
            size = agreed_size(body, self._wanted.expected_size)
            if not self._wanted.as_it_comes:
                size = None
            check = self._wanted.check()
            take = partial(self._take, check, size)
            # The first bytes, for which a client waits, pass by those who compute.
            if await stream.pour(take, self._committers):
                while await stream.pour(take, self._threads):
                    pass
        finally:
            stream.close()
        await in_thread(self._threads, self._finish, check)
        await in_thread(self._committers, self._writer.commit, check.metadata())
        self._start(Started(size))
        return True

    def _start(self, started: Started) -> None:
        if not self.started.done():
            self.started.set_result(started)

    def _take(self, check: FileCheck, size: int | None, data: bytes | memoryview) -> None:
        with upstreams_fault():
            if not self._written and not self._whole and size is not None and len(data) == size <= _SMALL_BYTES:
                self._take_whole(check, bytes(data))
            else:
                check.feed(data, partial(self._write, size))

    def _take_whole(self, check: FileCheck, data: bytes) -> None:
        # Verified in no time, it goes to who waits for it out of memory: most of what a small file costs is waiting for
        # threads, and for a look at the growing file.
        check.feed(data)
        self._whole = data + check.finish()
        started = Started(len(data), self._whole, check.metadata()["file_hash"])
        self._loop.call_soon_threadsafe(self._start, started)

    def _write(self, size: int | None, portion: bytes | memoryview) -> None:
        self._written += len(portion)
        if self._whole:
            raise UpstreamProtocolError("its file is longer than it said")
        if size is not None and self._written >= size:
            if self._written > size:
                raise UpstreamProtocolError("its file is longer than it said")
            portion, self._held = portion[:-1], bytes(portion[-1:])
        self._writer.write(portion)
        if not self._written_first:
            # At once, before what was written is looked at: the first client waits for nothing else.
            self._written_first = True
            self._loop.call_soon_threadsafe(self._start, Started(size))

    def _finish(self, check: FileCheck) -> None:
        with upstreams_fault():
            last = self._whole or self._held + check.finish()
        self._writer.write(last)


@contextmanager
def upstreams_fault() -> Iterator[None]:
    """Turn what a check says into the upstream's fault."""
    try:
        yield
    except FormatError as error:
        raise UpstreamProtocolError(f"its file is not what it should be: {error}") from None


def agreed_size(body: Body, expected: int | None) -> int | None:
    """The length of the file that a client may be told.

    Raises:
        UpstreamProtocolError: the upstream contradicts itself.
    """
    if body.size is not None and expected is not None and body.size != expected:
        raise UpstreamProtocolError(f"its NAR has {body.size} bytes, its narinfo says {expected}")
    return expected if body.size is None else body.size
