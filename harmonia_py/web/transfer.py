"""How the pieces of a download reach the socket.

A thread resumes the generator and writes to a duplicate of the connection's socket for as long as the socket takes it:
bytes by `send`, slices of files by `sendfile`. When the socket is full the thread goes back to its pool and the event
loop waits until the socket can be written, so a slow client costs no thread and a fast one few hops. Nothing here ever
blocks the event loop on the disk. Where there is no plain socket (TLS), the pieces go through memory and the transport.
"""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.web.figures import HttpFigures, Sending
from harmonia_py.web.limits import Limits, Pace, unsent_bytes
from harmonia_py.web.pieces import close_pieces, gather, in_memory
from harmonia_py.web.pump import ClientGone, Full, Outcome, Pump

# More threads than cores: they wait for the disk.
THREADS: Final = 16
# So that a look is not a hair too early.
_TICK_SECONDS: Final = 0.01

# For SO_LINGER: whether closing waits, and for how many seconds; not at all means a reset.
_RESET: Final = struct.pack("ii", 1, 0)
_NO_RESET: Final = struct.pack("ii", 0, 0)

T = TypeVar("T")


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
            while (pause := await self.in_thread(lambda: gather(parts, data))) is not None:  # noqa: ASYNC110  # no event
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
        running: asyncio.Future[Outcome] | None = None
        sock: socket.socket | None = None
        pump: Pump | None = None
        pace = Pace(self.limits)
        try:
            await self._flush(writer, transport)
            sock = _duplicate(transport)
            pump = Pump(sock, pieces, chunked=chunked)
            while True:
                running = asyncio.get_running_loop().run_in_executor(self.threads, pump.run)
                outcome = await asyncio.shield(running)
                sending.first_byte = pump.first_byte
                sending.note(pump.sent)
                if outcome is None:
                    return
                if isinstance(outcome, Pause):
                    await asyncio.sleep(outcome.seconds)
                elif isinstance(outcome, Full):
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
        self, running: asyncio.Future[Outcome] | None, sock: socket.socket | None, pieces: Iterator[Piece]
    ) -> None:
        """Close what a transfer held, once no thread uses it; closing a generator may wait for the disk."""

        def close(done: asyncio.Future[Outcome] | None = None) -> None:
            if done is not None and not done.cancelled():
                done.exception()
            if sock is not None:
                sock.close()
            try:
                self.threads.submit(close_pieces, pieces)
            except RuntimeError:  # the threads have ended, and so will the process
                close_pieces(pieces)

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
