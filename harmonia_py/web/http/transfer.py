"""The way of a download's pieces to the socket.

A thread resumes the generator and writes to a duplicate of the connection's socket for as long as the socket takes it:
bytes by `send`, slices of files by `sendfile`. When the socket is full the thread goes back to its pool and the event
loop waits until the socket can be written: a slow client costs no thread, and a fast one few changes between thread and
loop. The event loop never waits for the disk. With TLS, the pieces go through memory and the transport.
"""

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.runtime.tasks import retrieve
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.runtime.turns import Turns
from harmonia_py.web.admission.limits import Limits, Pace, unsent_bytes
from harmonia_py.web.http.patience import Patience
from harmonia_py.web.http.pausing import wait_for_more
from harmonia_py.web.http.pieces import close_pieces, gather, in_memory
from harmonia_py.web.http.pump import ClientGone, Full, Outcome, Pump
from harmonia_py.web.http_metrics import HttpMetrics, Sending

# One client has at most half of the threads that send.
_THREADS_PER_CLIENT: Final = Pool.TRANSFER.threads // 2
# Downloads that may be compressed at once, with a MiB of memory each; beyond that they are sent uncompressed.
MAX_CODERS: Final = 16
_CODERS_PER_CLIENT: Final = 4
# Listings, pages and searches made at once, at most one a client: each holds the interpreter's lock, and delays every
# other answer by five milliseconds.
_MAKING: Final = 2
# What one client may use to have them made: a quarter of a core in each worker; with more workers than cores, a quarter
# of all cores.
_MAKING_SHARE: Final = 1 / 4
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})

# SO_LINGER as (on, seconds): on with 0 seconds makes `close` send a reset; off is the default.
_RESET: Final = struct.pack("ii", 1, 0)
_NO_RESET: Final = struct.pack("ii", 0, 0)


class DownloadResponse(web.StreamResponse):
    """The headers of a download whose content does not go through the framework.

    Attributes:
        sending: the progress; None until it begins, and for the answer to a HEAD.
    """

    sending: Sending | None = None


class ResponseAborted(ConnectionError):
    """An answer that had begun, with `status`, and could not be finished."""

    def __init__(self, status: int, sending: Sending) -> None:
        super().__init__(status)
        self.status = status
        self.sending = sending


class Transfers:
    """Sends downloads; owns the threads that do it, and the queues for costly work.

    Attributes:
        metrics, limits: of this worker.
        threads: the pool that reads the disk and sends.
        making: turns of clients at having listings, pages and results of searches made.
        coders: turns of clients at downloads that are compressed while they are sent.
    """

    def __init__(self, limits: Limits, metrics: HttpMetrics) -> None:
        self.metrics = metrics
        self.limits = limits
        self.threads = Threads(Pool.TRANSFER)
        self.making = Turns(_MAKING, 1, making_rest(limits.workers, len(os.sched_getaffinity(0))))
        self.coders = Turns(MAX_CODERS, _CODERS_PER_CLIENT)
        self._coding_threads = Threads(Pool.CODE)
        self._patience = Patience(limits)
        self._turns = Turns(Pool.TRANSFER.threads, _THREADS_PER_CLIENT)

    def close(self) -> None:
        """End the threads. The transfers have been cut before."""
        # Calls that are still queued close generators, which may hold files and locks: they are not cancelled.
        self.threads.shutdown(wait=False)
        self._coding_threads.shutdown(wait=False)

    async def read(self, pieces: Iterator[Piece]) -> bytes:
        """All of `pieces`, for a download that is small enough to be one write."""
        parts = in_memory(pieces)
        data: list[bytes] = []
        try:
            while (pause := await self.threads.run(gather, parts, data)) is not None:
                await pause.wait()
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
        client: str,
        chunked: bool,
        coded: bool,
    ) -> None:
        """Send all of `pieces` after the headers.

        The turns of `client` count together. A download that is `coded` while it is sent runs on threads of its own,
        on a plain socket. The generator is always closed; after cancellation, when the thread has let go of it.

        Raises:
            ClientGone: the client went away or stood still.
            HarmoniaError: what the generator raised. Either way the caller must cut the connection.
        """
        try:
            sock = await self._own_socket(writer, transport)
        except BaseException:
            self._close_when_done(None, None, pieces)
            raise
        if sock is None:
            await self._send_through_transport(writer, transport, pieces, sending, client)
            return
        threads = self._coding_threads if coded else self.threads
        running: asyncio.Future[Outcome] | None = None
        pump = Pump(sock, pieces, chunked=chunked)
        pace = Pace(self.limits)
        clock = asyncio.get_running_loop().time
        moved = clock()
        try:
            while True:
                before = pump.sent
                async with self._turns.take(client):
                    running = asyncio.get_running_loop().run_in_executor(threads, pump.run)
                    outcome = await asyncio.shield(running)
                sending.first_byte = pump.first_byte
                sending.note(pump.sent)
                if outcome is None:
                    return
                if pump.sent != before:
                    moved = clock()
                if isinstance(outcome, Pause):
                    await wait_for_more(outcome, sock, moved)
                elif isinstance(outcome, Full):
                    await self._patience.until_writable(sock, pump.sent, pace)
                if transport.is_closing():
                    raise ClientGone
        finally:
            # The framework counts only the bytes that it writes itself.
            writer.output_size += pump.sent
            sending.note(pump.sent)
            self._close_when_done(running, sock, pieces)

    async def _own_socket(self, writer: AbstractStreamWriter, transport: asyncio.Transport) -> socket.socket | None:
        """A duplicate of the connection's socket, for threads to write to, once the headers have left.

        None where only the transport can write: with TLS, and out of descriptors.
        """
        if transport.get_extra_info("sslcontext") is not None:
            return None
        await self._patience.flush(writer, transport)
        original = transport.get_extra_info("socket")
        if original is None or transport.is_closing():
            raise ClientGone
        try:
            return socket.socket(fileno=os.dup(original.fileno()))
        except OSError as error:
            if error.errno in _EXHAUSTED:
                return None
            raise ClientGone from error

    def _close_when_done(
        self, running: asyncio.Future[Outcome] | None, sock: socket.socket | None, pieces: Iterator[Piece]
    ) -> None:
        """Close the socket and the generator of a transfer once no thread uses them.

        A thread closes the generator, because that may wait for the disk.
        """

        def close(done: asyncio.Future[Outcome] | None = None) -> None:
            if done is not None:
                retrieve(done)
            if sock is not None:
                sock.close()
            self.threads.later(partial(close_pieces, pieces))

        if running is None or running.done():
            close(running)
        else:
            running.add_done_callback(close)

    async def _send_through_transport(
        self,
        writer: AbstractStreamWriter,
        transport: asyncio.Transport,
        pieces: Iterator[Piece],
        sending: Sending,
        client: str,
    ) -> None:
        parts = in_memory(pieces)
        pace = Pace(self.limits)
        handed = sending.sent

        def taken() -> int:
            return handed - transport.get_write_buffer_size() - unsent_bytes(_descriptor(transport))

        async def write(part: bytes) -> None:
            nonlocal handed
            # Before `write` and in the same step of the loop, so that `taken` never counts half of a part.
            handed += len(part)
            await writer.write(part)

        try:
            while True:
                async with self._turns.take(client):
                    part = await self.threads.run(lambda: next(parts, None))
                if part is None:
                    return
                if isinstance(part, Pause):
                    await part.wait()
                    continue
                if not part:
                    continue
                sending.first_byte = sending.first_byte or time.perf_counter()
                await self._patience.at_pace(asyncio.ensure_future(write(part)), pace, taken)
                sending.note(sending.sent + len(part))
        finally:
            self._close_when_done(None, None, parts)


def making_rest(workers: int, cores: int) -> float:
    """How long a client rests after a turn at making, as a multiple of that turn; each worker counts by itself."""
    return max(1.0, workers / cores) / _MAKING_SHARE - 1


@contextmanager
def reset_unless_finished(transport: asyncio.Transport) -> Iterator[None]:
    """Make closing reset the connection until the block has finished: for an answer that ends with its connection.

    A proxy that speaks HTTP/1.0 with us, as nginx does unless told otherwise, would take half a file for the whole, and
    keep it. The kernel sends the reset also for a process that is killed.
    """
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    yield
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_RESET)


def _descriptor(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())
