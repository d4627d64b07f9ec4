"""One file on its way from an upstream into the blob store, verified as it comes.

Every client, the one that came first included, reads the blob as it grows. So nobody waits for the end, and a client
that leaves cancels nothing. The last byte of a file whose length the clients were told is written when all of it has
proved right: of a wrong one every connection is cut.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

from harmonia_py.cache.blobs import BlobWriter
from harmonia_py.cache.file_check import FileCheck
from harmonia_py.cache.upstream import Body, Resume, Tap
from harmonia_py.errors import FormatError, HarmoniaError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable

T = TypeVar("T")

# An upstream that cuts a download this often does not get it done.
_RESUMES: Final = 4
_RESUME_SECONDS: Final = 0.25


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


class Stream:
    """A file of an upstream, resumed where the connection is cut.

    Attributes:
        size: number of bytes of all of it, when the upstream says it.
    """

    def __init__(self, body: Body, wanted: Wanted) -> None:
        self.size = body.size
        self._body = body
        self._reopen = wanted.open
        self._validator = body.validator
        self._tap: Tap | None = None
        self._ended = False
        self._received = 0
        self._resumes = _RESUMES

    async def read(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            UpstreamError: there is no way to go on.
        """
        while True:
            try:
                data = await self._body.read()
            except UpstreamUnreachable as error:
                await self._resume(error)
                continue
            if not data and self.size is not None and self._received < self.size:
                await self._resume(UpstreamUnreachable("the download ended too early"))
                continue
            self._received += len(data)
            return data

    async def pour(self, take: Callable[[bytes | memoryview], None], threads: Executor) -> bool:
        """Let a thread hand the next bytes to `take`; False when there were none.

        Raises:
            UpstreamError: there is no way to go on.
            HarmoniaError: what `take` raised.
        """
        if self._ended:
            return False
        if self._tap is None:
            data = await self.read()
            if data:
                await in_thread(threads, take, data)
                # Not before the first bytes are on their way to the client, who waits for them.
                self._tap = self._body.tap()
            return bool(data)
        try:
            if await in_thread(threads, self._tap.run, partial(self._count, take)):
                await self._tap.wait()
            elif self.size is not None and self._received < self.size:
                raise UpstreamUnreachable("the download ended too early")  # noqa: TRY301  # resumed like any other
            else:
                self._ended = True
        except UpstreamUnreachable as error:
            await self._resume(error)
        return True

    def _count(self, take: Callable[[memoryview], None], data: memoryview) -> None:
        self._received += len(data)
        take(data)

    async def _resume(self, error: UpstreamUnreachable) -> None:
        self._tap = None
        self._body.close()
        # Without a validator nothing says that the rest would be the rest of the same file.
        if self._validator is None and self._received:
            raise error
        while self._resumes:
            await asyncio.sleep(_RESUME_SECONDS * (1 + _RESUMES - self._resumes))
            self._resumes -= 1
            with suppress(UpstreamUnreachable):
                body = await self._reopen(Resume(self._received, self._validator) if self._received else None)
                if body is None:
                    break
                self._body = body
                if body.validator != self._validator:
                    break
                if await self._skip(body):
                    return
                body.close()
        self._body.close()
        raise error

    async def _skip(self, body: Body) -> bool:
        """Leave out what is here already, where an upstream begins again at an earlier byte."""
        left = self._received - body.start
        while left > 0:
            data = await body.read()
            if not data or len(data) > left:
                return False
            left -= len(data)
        return left == 0

    def close(self) -> None:
        """Give the connection back."""
        self._body.close()


@dataclass(frozen=True, slots=True)
class Started:
    """What is known when the first bytes are there; None in its place means that the upstream does not have it."""

    size: int | None


class Fetch:
    """One download, from its first byte to its commit.

    Args:
        wanted: the file.
        writer: nobody else uses it.
        threads: compute, and wait for the disk.

    Attributes:
        started: what is known when the first bytes are there; None when no upstream has it.
    """

    def __init__(self, wanted: Wanted, writer: BlobWriter, threads: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started | None] = self._loop.create_future()
        self._wanted = wanted
        self._writer = writer
        self._threads = threads
        self._written = 0
        self._written_first = False
        self._held = b""

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
        stream = Stream(body, self._wanted)
        try:
            size = agreed_size(body, self._wanted.expected_size)
            if not self._wanted.as_it_comes:
                size = None
            check = self._wanted.check()
            while await stream.pour(partial(self._take, check, size), self._threads):
                pass
        finally:
            stream.close()
        await in_thread(self._threads, self._finish, check)
        self._start(size)
        return True

    def _start(self, size: int | None) -> None:
        if not self.started.done():
            self.started.set_result(Started(size))

    def _take(self, check: FileCheck, size: int | None, data: bytes | memoryview) -> None:
        with upstreams_fault():
            check.feed(data, partial(self._write, size))

    def _write(self, size: int | None, portion: bytes | memoryview) -> None:
        self._written += len(portion)
        if size is not None and self._written >= size:
            if self._written > size:
                raise UpstreamProtocolError("its file is longer than it said")
            portion, self._held = portion[:-1], bytes(portion[-1:])
        self._writer.write(portion)
        if not self._written_first:
            # At once, before what was written is looked at: the first client waits for nothing else.
            self._written_first = True
            self._loop.call_soon_threadsafe(self._start, size)

    def _finish(self, check: FileCheck) -> None:
        with upstreams_fault():
            last = check.finish()
        self._writer.write(self._held + last)
        self._writer.commit(check.metadata())


async def in_thread(threads: Executor, call: Callable[..., T], *arguments: object) -> T:
    """What `call` returns; a thread that is inside it is waited for also by who is cancelled, lest two be inside."""
    running = asyncio.get_running_loop().run_in_executor(threads, call, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


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
