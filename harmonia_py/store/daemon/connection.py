"""One connection to a nix-daemon: it sends requests and feeds the parser of the reply with what arrives.

A conversation has no way back into step: after a timeout, a cancellation or bytes that do not parse the connection is
closed. Only a daemon's own error, DaemonRefused, leaves it usable.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

from harmonia_py.errors import DaemonProtocolError, DaemonRefused, DaemonUnreachable, FormatError
from harmonia_py.nix.handshake import Exchange, Session, greet, introduce
from harmonia_py.nix.wire import END_OF_FRAMES, Parser, write_frames
from harmonia_py.nix.worker import set_options
from harmonia_py.runtime.tasks import retrieve, wake

_log = logging.getLogger(__name__)

Value = TypeVar("Value")

CONNECT_SECONDS: Final = 5.0
"""How long a daemon may take to accept a connection, unless something else is said."""

# A daemon accepts some hundred connections per second.
_BACKLOG_PAUSE: Final = 0.01


class Connection(asyncio.Protocol):
    """A conversation with one process of the daemon; one exchange at a time.

    Attributes:
        session: the versions and features that were agreed on when the connection was opened.
        closed: whether it is of no use any more.
        hung_up: whether the daemon closed it before a byte of the last reply: the request may be asked again elsewhere.
        on_close: called once when the connection ends, whether the daemon or this side ended it.
    """

    session: Session

    def __init__(self) -> None:
        self.closed = False
        self.hung_up = False
        self.on_close: Callable[[], None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._lost = asyncio.get_running_loop().create_future()
        self._paused: asyncio.Future[None] | None = None
        self._buffer = b""
        self._need = 0
        self._answered = False
        self._parser: Parser[Any] | None = None
        self._waiter: asyncio.Future[Any] | None = None

    @classmethod
    async def open(cls, socket_path: Path, time_limit: float) -> Self:
        """A connection after the handshake.

        Raises:
            DaemonUnreachable: no process listens there, or the handshake takes longer than `time_limit` seconds.
            DaemonProtocolError: the process that listens is no nix-daemon, or too old.
            DaemonRefused: the daemon does not want us.
        """
        connection = None
        try:
            async with asyncio.timeout(time_limit):
                connection = await cls._greet(socket_path, time_limit)
                try:
                    await connection.ask(set_options(), time_limit)
                except (DaemonRefused, DaemonProtocolError, DaemonUnreachable) as error:
                    # A daemon that is not Nix's may know only what a cache asks (harmonia-daemon). How much it has read
                    # of the options is unknown, so it is asked on a connection that never mentions them.
                    _log.debug("the nix-daemon at %s takes no options: %s", socket_path, error)
                    connection.close()
                    connection = await cls._greet(socket_path, time_limit)
        except OSError as error:  # TimeoutError is one
            _close(connection)
            raise DaemonUnreachable(
                f"cannot connect to the nix-daemon at {socket_path}: {error or 'timeout'}"
            ) from error
        except BaseException:
            _close(connection)
            raise
        return connection

    @classmethod
    async def _greet(cls, socket_path: Path, time_limit: float) -> Self:
        """A connection after the handshake, on which no operation was asked for."""
        sock = await _connect(socket_path)
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, sock=sock)
        try:
            minor = await connection.ask(greet(), time_limit)
            connection.session = await connection.ask(introduce(minor), time_limit)
        except BaseException:
            connection.close()
            raise
        return connection

    async def ask(self, exchange: Exchange[Value], time_limit: float) -> Value:
        """Send the request and return what the parser makes of the reply.

        Raises:
            DaemonUnreachable: no complete reply within `time_limit` seconds, or the connection ended before its end.
            DaemonProtocolError: the reply does not parse.
            DaemonRefused: the daemon answered with an error; the connection can be used again.
        """
        waiter, transport = self._begin(exchange)
        timer = asyncio.get_running_loop().call_later(time_limit, self._expire)
        try:
            transport.write(exchange.request)
            return await waiter
        except asyncio.CancelledError:
            if waiter.done():
                retrieve(waiter)
            raise
        finally:
            timer.cancel()
            if self._waiter is waiter:  # cancelled in the middle
                self.close()

    async def ask_with(
        self, exchange: Exchange[Value], data: AsyncIterator[bytes], stall_limit: float, time_limit: float
    ) -> Value:
        """Send the request, then `data` in frames, no faster than the daemon takes them, and return the parsed reply.

        The connection can be used again after a reply, and after DaemonRefused when all of `data` had been sent. An
        exception of `data` closes it: the daemon then has the beginning of something that it forgets.

        Args:
            exchange: the request, which announces the data, and the parser of the reply.
            data: portions of any size.
            stall_limit: seconds that the daemon may take nothing.
            time_limit: seconds that it may take for the reply once it has all of it.

        Raises:
            DaemonError: as `ask`.
        """
        waiter, transport = self._begin(exchange)
        in_step = False
        try:
            transport.write(exchange.request)
            async for portion in data:
                transport.write(write_frames(portion))
                await self._drained(stall_limit)
                if waiter.done():  # refused, or lost
                    await waiter
                    raise DaemonProtocolError("the nix-daemon answers before it has all data")
            transport.write(END_OF_FRAMES)
            timer = asyncio.get_running_loop().call_later(time_limit, self._expire)
            try:
                await asyncio.wait([waiter])
            finally:
                timer.cancel()
            in_step = True
            return await waiter
        finally:
            if not in_step:
                self.close()
            if waiter.done():
                retrieve(waiter)

    def close(self) -> None:
        """End the connection at once. The daemon's process sees it, and its temporary roots end with it."""
        self._end(DaemonUnreachable("the connection to the nix-daemon was closed"))

    async def wait_closed(self) -> None:
        """Return when the socket is closed."""
        await self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._parser is None:
            # No reply is expected. A daemon sends some errors twice, and closes the connection after them anyway.
            self.close()
            return
        self._answered = True
        buffer = self._buffer + data if self._buffer else data
        start, need, send = 0, self._need, self._parser.send
        try:
            while (stop := start + need) <= len(buffer):
                chunk = buffer[start:stop]
                start = stop
                need = send(chunk)
        except StopIteration as stop_iteration:
            self._finish(stop_iteration.value, None, in_step=start == len(buffer))
        except DaemonRefused as error:
            self._finish(None, error, in_step=start == len(buffer))
        except FormatError as error:
            failure = DaemonProtocolError(f"the nix-daemon's reply does not parse: {error}")
            failure.__cause__ = error
            self._end(failure)
        else:
            self._buffer = buffer[start:] if start else buffer
            self._need = need

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._paused = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        if self._paused is not None:
            wake(self._paused)
        self._paused = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        # A request whose reply had begun when the daemon was killed is not asked again elsewhere: its caller is told.
        self.hung_up = self._waiter is not None and not self._answered
        error = DaemonUnreachable("the nix-daemon closed the connection")
        error.__cause__ = exc
        self._end(error)
        wake(self._lost)

    def _begin(self, exchange: Exchange[Value]) -> tuple[asyncio.Future[Value], asyncio.WriteTransport]:
        if self.closed or self._transport is None:
            self.hung_up = True
            raise DaemonUnreachable("the connection to the nix-daemon has ended")
        if self._waiter is not None:
            raise RuntimeError("one exchange at a time")
        waiter: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._waiter, self._parser, self._answered = waiter, exchange.reply, False
        self._need = next(exchange.reply)
        return waiter, self._transport

    async def _drained(self, stall_limit: float) -> None:
        """Return when more may be written, or the connection has ended."""
        if self._paused is None:
            return
        timer = asyncio.get_running_loop().call_later(stall_limit, self._expire)
        try:
            await self._paused
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._end(DaemonUnreachable("the nix-daemon did not answer in time"))

    def _finish(self, value: object, error: Exception | None, *, in_step: bool) -> None:
        waiter, self._waiter, self._parser, self._buffer = self._waiter, None, None, b""
        if not in_step:
            self.close()
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(value)
        else:
            waiter.set_exception(error)

    def _end(self, error: Exception) -> None:
        if self._parser is not None:
            self._parser.close()
        self._finish(None, error, in_step=True)
        if self.closed:
            return
        self.closed = True
        self.resume_writing()
        if self._transport is not None:
            self._transport.abort()
        if self.on_close is not None:
            self.on_close()


async def _connect(socket_path: Path) -> socket.socket:
    """A socket connected to `socket_path`; the caller sets the time limit."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        while True:
            try:
                sock.connect(str(socket_path))
            except BlockingIOError:
                # The daemon's backlog is full: it has five places and forks for each. Nothing tells when one is free,
                # and neither asyncio nor uvloop tries again.
                await asyncio.sleep(_BACKLOG_PAUSE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def _close(connection: Connection | None) -> None:
    if connection is not None:
        connection.close()
