"""A file for one client alone, where nothing can be kept: read as it comes, and verified all the same.

The event loop reads, a thread resumes the generator: it asks for the next bytes, and pauses until they are there.
"""

import asyncio
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final

from harmonia_py.cache.source import Pause
from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.incoming import Incoming, Producer
from harmonia_py.contents.memory import MemoryFull
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.runtime.tasks import wake

_PAUSE_SECONDS: Final = 0.016


class Passthrough:
    """One download for one client.

    Args:
        incoming: says what it is; open.
        source: its bytes, from the first on.
    """

    def __init__(self, incoming: Incoming, source: Producer) -> None:
        self._incoming = incoming
        self._source = source
        self._check: FileCheck = incoming.check()
        self._size = incoming.size
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
            # The last byte comes when everything has proved right.
            if self._size is not None and offset >= self._size:
                if offset > self._size:
                    raise self._incoming.fault(FormatError("it is longer than was said"))
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
            yield from self._checked(data)
        with self._faults():
            last = self._check.finish()
        if last:
            yield last

    def _checked(self, data: bytes) -> Generator[bytes | Pause, None, None]:
        while True:
            try:
                with self._faults():
                    yield from self._check.portions(data)
            except MemoryFull as full:
                yield from self._wait_for_memory(full)
                data = b""
            else:
                return

    def _wait_for_memory(self, full: MemoryFull) -> Generator[Pause, None, None]:
        waiting = asyncio.run_coroutine_threadsafe(full.wait(), self._loop)
        try:
            while not waiting.done():
                yield Pause(_PAUSE_SECONDS)
            waiting.result()
        finally:
            waiting.cancel()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except FormatError as error:
            raise self._incoming.fault(error) from None

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
        self._source.close()

    def _read_on(self) -> None:
        self._reading = asyncio.run_coroutine_threadsafe(self._source.read(), self._loop)

    def _next(self) -> Generator[Pause, None, bytes]:
        assert self._reading is not None
        while not self._reading.done():
            yield Pause(_PAUSE_SECONDS, self._has_read)
        if self._reading.cancelled():
            raise StorageError("the download was given up")
        return self._reading.result()

    async def _has_read(self) -> None:
        assert self._reading is not None
        arrived: asyncio.Future[None] = self._loop.create_future()
        self._reading.add_done_callback(lambda _: self._loop.call_soon_threadsafe(wake, arrived))
        await arrived


def _part(data: bytes, at: int, start: int, end: int | None) -> bytes:
    """The part of `data`, which stands at `at`, between `start` and `end`."""
    return data[max(0, start - at) : None if end is None else max(0, end - at)]
