"""How the pieces of a download reach the socket.

A thread resumes the generator and writes to a duplicate of the connection's socket for as long as the socket takes it:
bytes by `send`, slices of files by `sendfile`. When the socket is full the thread goes back to its pool and the event
loop waits until the socket can be written, so a slow client costs no thread and a fast one few hops. Nothing here ever
blocks the event loop on the disk. Where there is no plain socket (TLS), the pieces go through memory and the transport.
"""

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.errors import StorageError, StorePathChanged
from harmonia_py.web.figures import HttpFigures, Sending
from harmonia_py.web.limits import Limits, Pace, unsent_bytes

# A thread gives way to the next transfer after this much, so that a few threads serve many fast clients evenly.
TURN_BYTES: Final = 32 * 1024 * 1024
# More threads than cores: they wait for the disk.
THREADS: Final = 16
# What passes through memory at once when the kernel cannot copy for us.
COPY_BYTES: Final = 256 * 1024

# So that a look is not a hair too early.
_TICK_SECONDS: Final = 0.01

# What sendfile says when it is the file and not the socket that fails.
_FILE_ERRORS: Final = frozenset({errno.EIO, errno.EINVAL, errno.EBADF, errno.EOVERFLOW, errno.ENOMEM, errno.ESTALE})

# For SO_LINGER: whether closing waits, and for how many seconds; not at all means a reset.
_RESET: Final = struct.pack("ii", 1, 0)
_NO_RESET: Final = struct.pack("ii", 0, 0)

T = TypeVar("T")


class ClientGone(ConnectionError):
    """The client closed the connection, or took nothing for too long."""


class DownloadResponse(web.StreamResponse):
    """The headers of a download whose content does not go through the framework.

    Attributes:
        sending: how far it got; None until it begins, and when there is only the answer to a HEAD.
    """

    sending: Sending | None = None


class Cut(ConnectionError):
    """An answer that had begun, with `status`, and could not be finished."""

    def __init__(self, status: int, sending: Sending) -> None:
        super().__init__(status)
        self.status = status
        self.sending = sending


@dataclass(frozen=True, slots=True)
class _Full:
    """The socket takes no more for now."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """Enough for one turn; there is more."""


_Outcome = _Full | _Turn | Pause | None


class _Pump:
    """One transfer over a plain socket. One thread at a time calls `run`."""

    def __init__(self, sock: socket.socket, pieces: Iterator[Piece], *, chunked: bool) -> None:
        self.sent = 0
        self.first_byte: float | None = None
        self._socket = sock
        self._pieces = pieces
        self._chunked = chunked
        # What is to be sent, in this order, before the generator is resumed.
        self._bytes = memoryview(b"")
        self._slice: FileSlice | None = None
        self._trailer = b""

    def run(self) -> _Outcome:
        """Send until there is nothing left (None), the socket is full, the turn is over, or there is a pause."""
        stop = self.sent + TURN_BYTES
        while self.sent < stop:
            try:
                busy = self._send()
            except BlockingIOError:
                return _Full()
            except OSError as error:
                raise ClientGone from error
            if not busy:
                piece = next(self._pieces, None)
                if piece is None or isinstance(piece, Pause):
                    return piece
                if self.first_byte is None:
                    self.first_byte = time.perf_counter()
                self._take(piece)
        return _Turn()

    def _send(self) -> bool:
        """Hand the kernel as much as it takes of what there is; False when there was nothing."""
        if self._bytes:
            count = self._socket.send(self._bytes)
            self._bytes = self._bytes[count:]
            self.sent += count
        elif self._slice is not None:
            try:
                count = os.sendfile(self._socket.fileno(), self._slice.fd, self._slice.offset, self._slice.size)
            except OSError as error:
                if error.errno in _FILE_ERRORS:
                    raise StorageError(f"a file cannot be read while it is being sent: {error}") from error
                raise
            if count == 0:
                raise StorePathChanged("a file became shorter while it was being sent")
            self.sent += count
            left = self._slice.size - count
            self._slice = FileSlice(self._slice.fd, self._slice.offset + count, left) if left else None
        elif self._trailer:
            self._bytes, self._trailer = memoryview(self._trailer), b""
        else:
            return False
        return True

    def _take(self, piece: bytes | FileSlice) -> None:
        size = piece.size if isinstance(piece, FileSlice) else len(piece)
        if size == 0:
            return
        head = b"%x\r\n" % size if self._chunked else b""
        self._trailer = b"\r\n" if self._chunked else b""
        if isinstance(piece, FileSlice):
            self._bytes, self._slice = memoryview(head), piece
        else:
            self._bytes = memoryview(head + piece if head else piece)


class Transfers:
    """Sends downloads; owns the threads that do."""

    def __init__(self, limits: Limits, figures: HttpFigures) -> None:
        self.figures = figures
        self.limits = limits
        self.threads = ThreadPoolExecutor(THREADS, "transfer")

    def close(self) -> None:
        """End the threads; whatever was being sent has been cut before."""
        # What waits its turn is the closing of generators, which may hold files and locks.
        self.threads.shutdown(wait=False)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """The result of `call`, which may wait for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call)

    async def read(self, pieces: Iterator[Piece]) -> bytes:
        """All of `pieces`, for a download that is small enough to be one write."""
        parts = in_memory(pieces)
        data: list[bytes] = []
        try:
            while (pause := await self.in_thread(lambda: _gather(parts, data))) is not None:  # noqa: ASYNC110  # no event
                await asyncio.sleep(pause.seconds)
        finally:
            self._close_when_done(None, None, parts)
        return b"".join(data)

    async def send(
        self,
        writer: AbstractStreamWriter,
        transport: asyncio.Transport,
        pieces: Iterator[Piece],
        sending: Sending,
        *,
        chunked: bool,
    ) -> None:
        """Send all of `pieces` after the headers.

        The generator is closed in every case; when the task is cancelled, as soon as the thread lets go of it.

        Raises:
            ClientGone: the client went away or stood still.
            HarmoniaError: what the generator raised. Either way the caller cuts the connection.
        """
        if transport.get_extra_info("sslcontext") is not None:
            await self._send_through_transport(writer, transport, pieces, sending)
            return
        running: asyncio.Future[_Outcome] | None = None
        sock: socket.socket | None = None
        pump: _Pump | None = None
        pace = Pace(self.limits)
        try:
            await self._flush(writer, transport)
            sock = _duplicate(transport)
            pump = _Pump(sock, pieces, chunked=chunked)
            while True:
                running = asyncio.get_running_loop().run_in_executor(self.threads, pump.run)
                outcome = await asyncio.shield(running)
                sending.first_byte = pump.first_byte
                sending.note(pump.sent)
                if outcome is None:
                    return
                if isinstance(outcome, Pause):
                    await asyncio.sleep(outcome.seconds)
                elif isinstance(outcome, _Full):
                    await self._until_writable(sock, pump.sent, pace)
                if transport.is_closing():
                    raise ClientGone
        finally:
            if pump is not None:
                # The framework counts what goes through it.
                writer.output_size += pump.sent
                sending.note(pump.sent)
            self._close_when_done(running, sock, pieces)

    def _close_when_done(
        self, running: asyncio.Future[_Outcome] | None, sock: socket.socket | None, pieces: Iterator[Piece]
    ) -> None:
        """Close what a transfer held, once no thread uses it; closing a generator may wait for the disk."""

        def close(done: asyncio.Future[_Outcome] | None = None) -> None:
            if done is not None and not done.cancelled():
                done.exception()
            if sock is not None:
                sock.close()
            try:
                self.threads.submit(_close, pieces)
            except RuntimeError:  # the threads have ended, and so will the process
                _close(pieces)

        if running is None or running.done():
            close(running)
        else:
            running.add_done_callback(close)

    async def _send_through_transport(
        self, writer: AbstractStreamWriter, transport: asyncio.Transport, pieces: Iterator[Piece], sending: Sending
    ) -> None:
        parts = in_memory(pieces)
        pace = Pace(self.limits)

        def taken() -> int:
            return sending.sent - transport.get_write_buffer_size() - unsent_bytes(_descriptor(transport))

        try:
            while (part := await self.in_thread(lambda: next(parts, None))) is not None:
                if isinstance(part, Pause):
                    await asyncio.sleep(part.seconds)
                    continue
                sending.first_byte = sending.first_byte or time.perf_counter()
                await self._at_pace(asyncio.ensure_future(writer.write(part)), pace, taken)
                sending.note(sending.sent + len(part))
        finally:
            self._close_when_done(None, None, parts)

    async def _flush(self, writer: AbstractStreamWriter, transport: asyncio.Transport) -> None:
        """Wait until the headers have left: the duplicate of the socket must not overtake the transport's buffer."""
        low, high = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(high=0)
        try:
            # One turn of the loop hands the headers to the kernel unless the client lags behind; then we wait for it.
            await asyncio.sleep(0)
            while transport.get_write_buffer_size():
                if transport.is_closing():
                    raise ClientGone
                await self._within_limit(writer.drain())
        finally:
            transport.set_write_buffer_limits(high=high, low=low)

    async def _until_writable(self, sock: socket.socket, sent: int, pace: Pace) -> None:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _set, writable)
        try:
            await self._at_pace(writable, pace, lambda: sent - unsent_bytes(sock.fileno()))
        finally:
            loop.remove_writer(sock)

    async def _at_pace(self, waiting: "asyncio.Future[None]", pace: Pace, taken: Callable[[], int]) -> None:
        """Wait for a client, as long as it takes enough; `taken` says how much in all."""
        clock = asyncio.get_running_loop().time
        began = looked = clock()
        try:
            while not waiting.done():
                left = began + self.limits.stall_timeout - clock()
                if left <= 0:
                    raise ClientGone
                await asyncio.wait([waiting], timeout=min(left, pace.patience + _TICK_SECONDS))
                now = clock()
                if not pace.is_fast_enough(now - looked, taken()):
                    raise ClientGone
                looked = now
        finally:
            if not waiting.cancel() and not waiting.cancelled():
                waiting.exception()
        waiting.result()

    async def _within_limit(self, waiting: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self.limits.stall_timeout):
                await waiting
        except TimeoutError:
            raise ClientGone from None


def in_memory(pieces: Iterator[Piece]) -> Generator[bytes | Pause, None, None]:
    """`pieces` with slices of files read into memory, a little at a time; closing it closes `pieces`."""
    try:
        for piece in pieces:
            if not isinstance(piece, FileSlice):
                yield piece
                continue
            offset, stop = piece.offset, piece.offset + piece.size
            while offset < stop:
                data = os.pread(piece.fd, min(COPY_BYTES, stop - offset), offset)
                if not data:
                    raise StorePathChanged("a file became shorter while it was being sent")
                offset += len(data)
                yield data
    finally:
        _close(pieces)


def _gather(parts: Iterator[bytes | Pause], data: list[bytes]) -> Pause | None:
    """Append to `data` what comes, up to a pause or, then it is None, to the end."""
    for part in parts:
        if isinstance(part, Pause):
            return part
        data.append(part)
    return None


@contextmanager
def reset_unless_finished(transport: asyncio.Transport) -> Iterator[None]:
    """For an answer that ends with its connection: if anything else ends that, the client sees a reset.

    A proxy that speaks HTTP/1.0 with us, as nginx does unless told otherwise, would take half a file for the whole, and
    keep it. The kernel sends the reset also for a process that is killed.
    """
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    yield
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_RESET)


def _duplicate(transport: asyncio.Transport) -> socket.socket:
    original = transport.get_extra_info("socket")
    if original is None or transport.is_closing():
        raise ClientGone
    try:
        return socket.socket(fileno=os.dup(original.fileno()))
    except OSError as error:
        raise ClientGone from error


def _descriptor(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _close(pieces: Iterator[Piece]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
