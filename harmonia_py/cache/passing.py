"""A file of an upstream for one client alone, where nothing can be kept: read as it comes, and verified all the same.

The event loop reads, a thread resumes the generator: it asks for the next bytes, and pauses until they are there.
"""

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from typing import Final

from harmonia_py.cache.fetch import upstreams_fault
from harmonia_py.cache.file_check import FileCheck
from harmonia_py.cache.source import Pause
from harmonia_py.cache.stream import Stream
from harmonia_py.errors import UpstreamProtocolError, UpstreamUnreachable

_FIRST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.016


class Passage:
    """One download that nobody else sees.

    Args:
        stream: what comes from the upstream, from its first byte on.
        check: what it is held against.
        size: what the client is told of its length. Then the last byte comes when everything has proved right.
    """

    def __init__(self, stream: Stream, check: FileCheck, size: int | None) -> None:
        self._stream = stream
        self._check = check
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._reading: Future[bytes] | None = None

    def pieces(self, start: int, stop: int | None) -> Generator[bytes | Pause, None, None]:
        """The bytes from `start` on; those before are read, verified, and left out."""
        end = self._size if stop is None else stop
        offset, held = 0, b""
        for portion in self._portions():
            if isinstance(portion, Pause):
                yield portion
                continue
            at, offset = offset, offset + len(portion)
            visible = portion
            if self._size is not None and offset >= self._size:
                if offset > self._size:
                    raise UpstreamProtocolError("its file is longer than it said")
                visible, held = portion[:-1], portion[-1:]
            yield _part(visible, at, start, end)
        yield _part(held, offset - len(held), start, end)

    def _portions(self) -> Generator[bytes | Pause, None, None]:
        """Everything, up to the end, which comes only when everything has proved right."""
        self._read_on()
        while True:
            data = yield from self._next()
            if not data:
                break
            self._read_on()
            with upstreams_fault():
                yield from self._check.portions(data)
        with upstreams_fault():
            last = self._check.finish()
        if last:
            yield last

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
        self._stream.close()

    def _read_on(self) -> None:
        self._reading = asyncio.run_coroutine_threadsafe(self._stream.read(), self._loop)

    def _next(self) -> Generator[Pause, None, bytes]:
        assert self._reading is not None
        pause = _FIRST_PAUSE_SECONDS
        while not self._reading.done():
            yield Pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        if self._reading.cancelled():
            raise UpstreamUnreachable("the download was given up")
        return self._reading.result()


def _part(data: bytes, at: int, start: int, end: int | None) -> bytes:
    """What of `data`, which stands at `at`, lies between `start` and `end`."""
    return data[max(0, start - at) : None if end is None else max(0, end - at)]
