"""Waits until a client's socket is writable, and gives up on a client that is too slow."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from aiohttp.abc import AbstractStreamWriter

from harmonia_py.runtime.tasks import wake
from harmonia_py.web.admission.limits import Limits, Pace, unsent_bytes
from harmonia_py.web.http.pump import ClientGone

# Added to a wait, so that it does not end a moment before the time that it waits for.
_TICK_SECONDS: Final = 0.01


class Patience:
    """What the limits allow a client to take of the server's time.

    Args:
        limits: how long a client may take nothing, and the least rate at which it must take something.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def flush(self, writer: AbstractStreamWriter, transport: asyncio.Transport) -> None:
        """Wait until the headers have left: a duplicate of the socket must not overtake the transport's buffer.

        Raises:
            ClientGone: the client went away, or has taken nothing for a `stall_timeout`.
        """
        low, high = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(high=0)
        try:
            # One turn of the loop hands the headers to the kernel, unless the client lags behind: then wait for it.
            await asyncio.sleep(0)
            while transport.get_write_buffer_size():
                if transport.is_closing():
                    raise ClientGone
                try:
                    async with asyncio.timeout(self._limits.stall_timeout):
                        await writer.drain()
                except TimeoutError:
                    raise ClientGone from None
        finally:
            transport.set_write_buffer_limits(high=high, low=low)

    async def until_writable(self, sock: socket.socket, sent: int, pace: Pace) -> None:
        """Wait until the socket takes more of a download of which it was given `sent` bytes.

        Raises:
            ClientGone: the client takes nothing, or too little.
        """
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, wake, writable)
        try:
            await self.at_pace(writable, pace, lambda: sent - unsent_bytes(sock.fileno()))
        finally:
            loop.remove_writer(sock)

    async def at_pace(self, waiting: "asyncio.Future[None]", pace: Pace, taken: Callable[[], int]) -> None:
        """Wait until `waiting` is done, for as long as the client takes enough; `taken` counts the bytes it has taken.

        A socket is reported writable only when a third of its output has left, which may be more than a MiB. So the
        client has not stalled if anything at all has left within a `stall_timeout`.

        Raises:
            ClientGone: the client takes nothing, or too little.
        """
        clock = asyncio.get_running_loop().time
        since = looked = clock()
        try:
            taken_then = taken()
            while not waiting.done():
                left = since + self._limits.stall_timeout - clock()
                if left <= 0:
                    if taken() == taken_then:
                        raise ClientGone
                    since, taken_then = clock(), taken()
                    continue
                await asyncio.wait([waiting], timeout=min(left, pace.patience + _TICK_SECONDS))
                now = clock()
                if not pace.is_fast_enough(now - looked, taken()):
                    raise ClientGone
                looked = now
        finally:
            if not waiting.cancel() and not waiting.cancelled():
                waiting.exception()
        waiting.result()
