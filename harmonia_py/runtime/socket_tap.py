"""The rest of a large body, read by threads straight from its socket.

What comes through the framework is copied several times, and handed from the event loop to a thread in portions. To
fetch 315 MB, verify, keep and send them took 1.0 seconds of a processor that way, and takes 0.6 where a thread receives
into one buffer, again and again. That works where the socket has the bytes themselves: without TLS, and where the
length is known. The framework reads nothing more from the connection, which is not used again after this body.
"""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import aiohttp
from aiohttp import hdrs

from harmonia_py.errors import reason_of
from harmonia_py.runtime.tasks import wake

# Below this, taking over costs more than it saves, and the connection may as well be used again.
_WORTH_BYTES: Final = 1024 * 1024
# Bytes that are received at a time: they stay in the processor's cache until they are written and hashed.
_BUFFER_BYTES: Final = 256 * 1024
# A thread gives way to the next download after this time: a megabyte of xz takes fifty times as long as one as it is.
_TURN_SECONDS: Final = 0.01
# A thread is woken when a buffer is full, or after this time for the bytes that have come: readers look as often.
_GATHER_SECONDS: Final = 0.016

R = TypeVar("R", int, bytes)

_buffers = threading.local()


class ReceiveError(Exception):
    """The connection was cut, or nothing came for too long. The caller knows what is at its other end."""


class SocketTap:
    """A tap on the rest of a response, by a duplicate of its socket.

    Args:
        sock: not blocking; None when everything is buffered.
        buffered: the bytes that the framework had read already.
        left: number of bytes on the socket.
        stall_timeout: seconds without a byte after which the connection is dead.

    Attributes:
        taken: number of bytes that were handed over.
    """

    def __init__(self, sock: socket.socket | None, buffered: bytes, left: int, stall_timeout: float) -> None:
        self.taken = 0
        self._socket = sock
        self._buffered = buffered
        self._left = left
        self._stall_timeout = stall_timeout

    def run(self, take: Callable[[memoryview], None]) -> bool:
        """Hand over the bytes that have arrived; False when those were the last.

        Raises:
            ReceiveError: the connection was cut.
        """
        if data := self._take_buffered():
            take(memoryview(data))
        view = memoryview(_buffer())
        stop = time.monotonic() + _TURN_SECONDS
        while self._left and time.monotonic() < stop:
            assert self._socket is not None
            count = _received(partial(self._socket.recv_into, view[: self._left]))
            if count is None:
                break
            self._left -= count
            self.taken += count
            take(view[:count])
        return self._left > 0

    def read(self) -> bytes:
        """Up to 256 KiB that have arrived; empty while none have.

        Raises:
            ReceiveError: the connection was cut.
        """
        if data := self._take_buffered():
            return data
        assert self._socket is not None
        data = _received(partial(self._socket.recv, min(_BUFFER_BYTES, self._left))) or b""
        self._left -= len(data)
        self.taken += len(data)
        return data

    def _take_buffered(self) -> bytes:
        data, self._buffered = self._buffered, b""
        self.taken += len(data)
        return data

    async def wait(self, size: int = _BUFFER_BYTES) -> None:
        """Until there are `size` bytes, or fewer after a moment.

        Raises:
            ReceiveError: nothing came for too long.
        """
        assert self._socket is not None
        for least, seconds in ((min(size, self._left), _GATHER_SECONDS), (1, self._stall_timeout)):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            if await _is_readable(self._socket, seconds):
                return
        raise ReceiveError("no connection: nothing came for too long")

    def shut_down(self) -> None:
        """End the connection: a caller that waits returns, and the next read raises. A thread may be inside."""
        if self._socket is not None:
            with suppress(OSError):  # it has ended already
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Called once, when no thread is inside."""
        if self._socket is not None:
            self._socket.close()


def tap(response: aiohttp.ClientResponse, left: int, stall_timeout: float) -> SocketTap | None:
    """Take over the rest of a body; None where that cannot be, or is not worth it.

    Args:
        response: in the middle of its body.
        left: number of bytes of the body that have not been read from `response`.
        stall_timeout: as in `SocketTap`.
    """
    connection = response.connection
    if connection is None or connection.protocol is None or left < _WORTH_BYTES or response.content.exception():
        return None
    transport = connection.transport
    if transport is None or transport.get_extra_info("sslcontext") is not None or transport.is_closing():
        return None
    if hdrs.TRANSFER_ENCODING in response.headers:
        return None
    original: socket.socket = transport.get_extra_info("socket")
    try:
        sock = socket.socket(fileno=os.dup(original.fileno()))
    except OSError:
        return None  # no descriptor is left for it
    # When the framework's buffer is empty its parser is, too: every other byte of the body is still to come.
    buffered = b"".join(iter(response.content.read_nowait, b""))
    if len(buffered) == left:
        sock.close()
        return SocketTap(None, buffered, 0, stall_timeout)
    connection.protocol.pause_reading()
    sock.setblocking(False)
    return SocketTap(sock, buffered, left - len(buffered), stall_timeout)


def _received(receive: Callable[[], R]) -> R | None:
    """What `receive` returns; None when nothing has arrived."""
    try:
        received = receive()
    except BlockingIOError:
        return None
    except OSError as error:
        raise ReceiveError(f"no connection: {reason_of(error)}") from error
    if not received:
        raise ReceiveError("the download ended too early")
    return received


def _buffer() -> bytearray:
    """One for each thread, because a turn leaves nothing in it."""
    found: bytearray | None = getattr(_buffers, "buffer", None)
    if found is None:
        found = _buffers.buffer = bytearray(_BUFFER_BYTES)
    return found


async def _is_readable(sock: socket.socket, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, wake, readable)
    try:
        await asyncio.wait([readable], timeout=seconds)
        return readable.done()
    finally:
        loop.remove_reader(sock)
