"""The file of an upstream from its first byte to its last, over as many connections as it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Final

from harmonia_py.contents.memory import Share
from harmonia_py.errors import UpstreamUnreachable
from harmonia_py.mirror.upstream import Body, Resume, Tap
from harmonia_py.runtime.threads import in_thread

Reopen = Callable[[Resume | None], Awaitable[Body | None]]

# An upstream that cuts a download this often does not get it done.
_RESUMES: Final = 4
_RESUME_SECONDS: Final = 0.25
# Within this time an upstream has to begin the rest of a file: as long as a connection may stand still.
_REOPEN_SECONDS: Final = 30.0
# In each minute of waiting for an upstream, so many bytes have to come. A modem is ten times as fast. With a byte now
# and then, a file would hold one of the downloads that run at once for days.
_PACE_SECONDS: Final = 60.0
_PACE_BYTES: Final = 16 * 1024


class _Pace:
    """Whether a file comes fast enough to wait for the rest of it."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._bytes = 0

    def came(self, count: int) -> None:
        """Count bytes that came."""
        self._bytes += count

    def waited(self, seconds: float) -> None:
        """Count seconds in which the download did nothing but wait for bytes.

        Raises:
            UpstreamUnreachable: for so few bytes that is too long.
        """
        self._seconds += seconds
        if self._seconds < _PACE_SECONDS:
            return
        is_slow = self._bytes < _PACE_BYTES
        self._seconds, self._bytes = 0.0, 0
        if is_slow:
            raise UpstreamUnreachable("the download is too slow")


class Stream:
    """A file of an upstream, resumed where the connection is cut.

    Args:
        body: of which nothing has been read.
        reopen: opens it again, where it is told to go on.
        share: of the memory, which is given back when the file is closed.

    Attributes:
        size: number of bytes of all of it, when the upstream says it.
    """

    def __init__(self, body: Body, reopen: Reopen, share: Share) -> None:
        self.size = body.size
        self._share = share
        self._body = body
        self._reopen = reopen
        self._validator = body.validator
        self._encoding = body.encoding
        self._tap: Tap | None = None
        self._ended = False
        self._received = 0
        self._resumes = _RESUMES
        self._pace = _Pace()

    async def read(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            UpstreamError: there is no way to go on.
        """
        while True:
            try:
                data = await self._next(self._body)
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
                if self._received == self.size:
                    self._ended = True
                else:
                    # Not before the first bytes are on their way to the client, who waits for them.
                    self._tap = self._body.tap()
            return bool(data)
        try:
            if await in_thread(threads, self._tap.run, partial(self._count, take)):
                begun = time.monotonic()
                await self._tap.wait()
                self._pace.waited(time.monotonic() - begun)
            elif self.size is not None and self._received < self.size:
                raise UpstreamUnreachable("the download ended too early")  # noqa: TRY301  # resumed like any other
            else:
                self._ended = True
        except UpstreamUnreachable as error:
            await self._resume(error)
        return True

    def _count(self, take: Callable[[memoryview], None], data: memoryview) -> None:
        self._received += len(data)
        self._pace.came(len(data))
        take(data)

    async def _next(self, body: Body) -> bytes:
        begun = time.monotonic()
        data = await body.read()
        self._pace.came(len(data))
        if data:
            self._pace.waited(time.monotonic() - begun)
        return data

    async def _resume(self, error: UpstreamUnreachable) -> None:
        self._tap = None
        self._body.close()
        # Without a validator nothing says that the rest would be the rest of the same file.
        if self._validator is None and self._received:
            raise error
        while self._resumes:
            await asyncio.sleep(_RESUME_SECONDS * (1 + _RESUMES - self._resumes))
            self._resumes -= 1
            with suppress(UpstreamUnreachable, TimeoutError):
                async with asyncio.timeout(_REOPEN_SECONDS):
                    body = await self._reopen(Resume(self._received, self._validator) if self._received else None)
                if body is None:
                    break
                self._body = body
                if not self._is_same_file(body):
                    break
                if await self._skip(body):
                    return
            self._body.close()
        self._body.close()
        raise error

    def _is_same_file(self, body: Body) -> bool:
        said = body.validator, body.encoding, self.size if body.size is None else body.size
        return said == (self._validator, self._encoding, self.size)

    async def _skip(self, body: Body) -> bool:
        """Leave out what is here already, where an upstream begins again at an earlier byte."""
        left = self._received - body.start
        while left > 0:
            data = await self._next(body)
            if not data or len(data) > left:
                return False
            left -= len(data)
        return left == 0

    def close(self) -> None:
        """Give the connection and the memory back."""
        self._body.close()
        self._share.close()
