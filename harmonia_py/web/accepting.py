"""Connections are taken from the listening sockets one at a time, and none beyond a limit.

A loop's own servers accept whatever comes. Here a worker that is full looks away, so that the kernel keeps new clients
in its queue, or another worker takes them.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

_log = logging.getLogger(__name__)

# Too few descriptors or too little memory: accept(2). The connection stays in the queue; looking again at once would
# keep a core busy.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REST_SECONDS: Final = 1.0
# What a connection takes to open, where there is no TLS, many times over.
_MOMENT_SECONDS: Final = 0.2


class Acceptor:
    """Accepts on `sockets`, which listen already and are closed in the end.

    Args:
        sockets: of any family.
        max_connections: that are open at once.
        tls: for HTTPS.
        handshake_timeout: seconds for the beginning of TLS.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        max_connections: int,
        tls: ssl.SSLContext | None,
        handshake_timeout: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = tuple(sockets)
        self._max_connections = max_connections
        self._tls = tls
        self._handshake_timeout = handshake_timeout
        self._connecting: set[asyncio.Task[None]] = set()
        self._open = 0
        self._accepting = False
        self._rest: asyncio.TimerHandle | None = None
        self._protocol: Callable[[], asyncio.Protocol]

    def start(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accept from now on. Each protocol calls `opened` and `lost`."""
        self._protocol = protocol
        self._resume()

    async def stop(self) -> None:
        """Accept no more, and close the sockets. Connections stay."""
        self._pause()
        if self._rest is not None:
            self._rest.cancel()
        self._max_connections = 0
        for sock in self._sockets:
            sock.close()
        if self._connecting:
            # A cancelled one is gone from under a request that has just arrived on it: only handshakes take longer.
            _, handshakes = await asyncio.wait(self._connecting, timeout=_MOMENT_SECONDS)
            for task in handshakes:
                task.cancel()
            if handshakes:
                await asyncio.wait(handshakes)

    def opened(self) -> None:
        """One more connection is open."""
        self._open += 1

    def lost(self) -> None:
        """One less is."""
        self._open -= 1
        self._resume()

    @property
    def _is_full(self) -> bool:
        return self._open + len(self._connecting) >= self._max_connections

    def _resume(self) -> None:
        if not self._accepting and self._rest is None and not self._is_full:
            self._accepting = True
            for sock in self._sockets:
                self._loop.add_reader(sock, self._accept, sock)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock)

    def _accept(self, sock: socket.socket) -> None:
        """Take one; the loop calls again for the next, and meanwhile another worker may."""
        if self._is_full:
            self._pause()
            return
        try:
            connection, _ = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            _log.error("no connection can be accepted: %s", error.strerror)
            self._pause()
            self._rest = self._loop.call_later(_REST_SECONDS, self._rested)
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def _rested(self) -> None:
        self._rest = None
        self._resume()

    async def _connect(self, connection: socket.socket) -> None:
        timeout = None if self._tls is None else self._handshake_timeout
        try:
            await self._loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except OSError as error:
            # A handshake that failed or took too long, or a client that left.
            _log.debug("a connection was not opened: %s", error)
            connection.close()
        except BaseException:
            connection.close()
            raise

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection was not opened", exc_info=task.exception())
        self._resume()
