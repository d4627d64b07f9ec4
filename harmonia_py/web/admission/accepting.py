"""Connections are taken from the listening sockets one at a time, and none beyond a limit, for one client and for all.

The servers of an event loop accept every connection. Here a full worker stops accepting for a moment, so that another
worker takes new clients, or the kernel keeps them in its queue. When clients still wait there a moment later, the
worker closes the connection that has been idle for longest. A worker that has more connections than another one leaves
the next to it for a moment (`leaving`). For a client that has as many connections as one client may have, the worker
closes an idle connection of that client, or else refuses the new one.
"""

import asyncio
import errno
import logging
import select
import socket
import ssl
import struct
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from harmonia_py.errors import reason_of
from harmonia_py.metrics.loads import Load
from harmonia_py.runtime.bounded import TimedSet
from harmonia_py.runtime.warnings import RareWarning
from harmonia_py.web.admission.clients import peer_name
from harmonia_py.web.admission.leaving import Leaving
from harmonia_py.web.admission.limits import Limits
from harmonia_py.web.admission.open_connections import Connection, OpenConnections

_log = logging.getLogger(__name__)

# Too few descriptors or too little memory: accept(2). The connection stays in the queue; looking again at once would
# keep a core busy.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REST_SECONDS: Final = 1.0
# Many times as long as a connection takes to open without TLS.
_MOMENT_SECONDS: Final = 0.2
# A full worker stops accepting for so long, in which another one may take the client.
_AWAY_SECONDS: Final = 0.1
# For so long a worker leaves a connection to one that has fewer: many times as long as an idle one takes to wake up.
_LEAVES_SECONDS: Final = 0.001
# The connections of a client that was refused are looked at again after so long. To look at 256 of them for each of
# 500 refusals a second took a quarter of the event loop's time.
_BUSY_SECONDS: Final = 0.1
_SHARES_KNOWN: Final = 4096
# Of a client with more connections than this, open or come since no client waited, one is opened in each turn of the
# loop, and those of others pass by: to open one and to answer it takes up to a millisecond. Nix has 25 at most, and
# waits a few milliseconds.
_MANY: Final = 8
# Two milliseconds of refusing and putting off.
_PASSED_AT_ONCE: Final = 64
# For SO_LINGER: the client learns at once, and nothing of the connection stays in the kernel.
_RESET: Final = struct.pack("ii", 1, 0)


class Acceptor:
    """Accepts on `sockets`, which listen already and are closed in the end.

    Args:
        sockets: of any family.
        limits: how many connections are open at once, and how long a TLS handshake may take.
        share_of: by the peer's address, the client that it counts for; None for one that may have any number.
        tls: for HTTPS.
        load: how many connections this worker has, and whether others have fewer.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        limits: Limits,
        share_of: Callable[[str], str | None],
        tls: ssl.SSLContext | None,
        load: Load,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = tuple(sockets)
        for sock in self._sockets:
            # Another worker may have taken the connection that this one was told of, and several are taken in one turn.
            sock.setblocking(False)
        self._max_connections = limits.max_connections
        self._per_client = limits.connections_per_client
        self._handshake_timeout = limits.header_timeout
        self._share_of = lru_cache(_SHARES_KNOWN)(share_of)
        self._tls = tls
        self._load = load
        self._connecting: dict[asyncio.Task[None], str | None] = {}
        self._connecting_of: Counter[str] = Counter()
        self._open = OpenConnections(self._loop.time)
        # Clients none of whose connections was idle a moment ago.
        self._busy: TimedSet[str] = TimedSet(_SHARES_KNOWN, self._loop.time)
        # How many connections of each client have come since the last look that found none waiting; there is one only
        # after a connection that was put off or refused.
        self._in_a_row: Counter[str] = Counter()
        # Connections that are accepted, and not opened yet.
        self._put_off: deque[tuple[socket.socket, str | None]] = deque()
        self._accepting = False
        # Whether a full worker closes idle connections for new ones.
        self._makes_room = False
        self._rest: asyncio.TimerHandle | None = None
        self._away: asyncio.TimerHandle | None = None
        # While it leaves a connection to another worker.
        self._leaves: asyncio.TimerHandle | None = None
        self._leaving_to_others = Leaving(load, self._loop.time)
        # What other workers had taken when this one began to leave a connection to them.
        self._taken_by_others = load.taken_by_others()
        self._warning = RareWarning(_log)
        self._protocol: Callable[[], asyncio.Protocol]

    def start(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accept from now on. Each protocol calls `opened` and `lost`."""
        self._protocol = protocol
        self._note_load()
        self._resume()

    async def stop(self) -> None:
        """Accept no more, and close the sockets. Connections stay."""
        self._pause()
        self._load.ends()
        for timer in (self._rest, self._away, self._leaves):
            if timer is not None:
                timer.cancel()
        self._max_connections = 0
        while self._put_off:
            self._open_now(*self._put_off.popleft())
        for sock in self._sockets:
            sock.close()
        if self._connecting:
            # A connection that is cancelled here may have a request on it already. Only TLS handshakes take longer.
            _, handshakes = await asyncio.wait(self._connecting, timeout=_MOMENT_SECONDS)
            for task in handshakes:
                task.cancel()
            if handshakes:
                await asyncio.wait(handshakes)

    def opened(self, connection: Connection, peer: str) -> None:
        """Note that a connection to the address `peer` is open."""
        self._open.add(connection, self._share_of(peer))

    def lost(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self._open.remove(connection)
        self._note_load()
        if not self._is_full:
            self._makes_room = False
            self._resume()

    @property
    def _count(self) -> int:
        return len(self._open) + len(self._connecting) + len(self._put_off)

    @property
    def _is_full(self) -> bool:
        return self._count >= self._max_connections

    def _note_load(self) -> None:
        if self._max_connections:  # otherwise it has stopped
            self._load.accepts(self._count)

    def _resume(self) -> None:
        if (
            not self._accepting
            and self._rest is None
            and self._leaves is None
            and (not self._is_full or self._makes_room)
        ):
            if self._away is not None:
                self._away.cancel()
                self._away = None
            self._accepting = True
            for sock in self._sockets:
                self._loop.add_reader(sock, self._accept, sock)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock)

    def _accept(self, sock: socket.socket) -> None:
        """Take one connection, unless it is left to another worker for a moment."""
        if not self._leaving_to_others.is_due():
            self._take(sock)
            return
        self._taken_by_others = self._load.taken_by_others()
        if _has_waiting(sock):
            self._pause()
            self._leaves = self._loop.call_later(_LEAVES_SECONDS, self._left, sock)
        else:
            # All workers are told of a connection: another one has taken it already.
            self._leaving_to_others.note(is_taken=True)

    def _take(self, sock: socket.socket) -> None:
        """Take one connection. For the next one the loop calls again, and meanwhile another worker may take it."""
        # The connections of a client that has many must not cost a turn of the loop each: others wait behind them.
        for _ in range(_PASSED_AT_ONCE):
            if not self._accept_one(sock):
                break
        self._note_load()

    def _accept_one(self, sock: socket.socket) -> bool:
        """Accept one connection; whether it was refused or put off, so that the next may be looked at."""
        if self._is_full and not (self._makes_room and self._open.close_an_idle_one()):
            self._look_away()
            return False
        try:
            connection, address = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            self._in_a_row.clear()
            return False
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            _log.error("no connection can be accepted: %s", error.strerror)
            self._pause()
            self._rest = self._loop.call_later(_REST_SECONDS, self._rested)
            return False
        self._load.takes_one()
        share = self._share_of(peer_name(connection.family, address))
        if share is not None and not self._has_room_for(share):
            self._refuse(connection, share)
            return True
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if share is not None:
            self._connecting_of[share] += 1
            if self._has_many(share):
                if not self._put_off:
                    self._loop.call_soon(self._open_one)
                self._put_off.append((connection, share))
                return True
        self._open_now(connection, share)
        return False

    def _has_many(self, share: str) -> bool:
        """Whether the connection of a client that was just accepted is one of many."""
        if len(self._in_a_row) > _SHARES_KNOWN:
            self._in_a_row.clear()
        self._in_a_row[share] += 1
        # Where a request is answered within few turns of the loop, a burst never has many open.
        return max(self._in_a_row[share], self._count_of(share)) > _MANY

    def _open_one(self) -> None:
        """Open one of the connections that were put off, one in each turn of the loop."""
        if self._put_off:
            self._open_now(*self._put_off.popleft())
            self._loop.call_soon(self._open_one)

    def _open_now(self, connection: socket.socket, share: str | None) -> None:
        task = self._loop.create_task(self._connect(connection))
        self._connecting[task] = share
        task.add_done_callback(self._connected)

    def _count_of(self, share: str) -> int:
        return self._open.count(share) + self._connecting_of[share]

    def _has_room_for(self, share: str) -> bool:
        if self._count_of(share) < self._per_client:
            return True
        if self._busy.holds(share):
            return False
        if not self._open.close_an_idle_one(share):
            self._busy.add(share, _BUSY_SECONDS)
            return False
        return True

    def _refuse(self, connection: socket.socket, share: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.close()
        self._warning.say(
            "%s has %d connections, as many as one client may; if it is a proxy, name it in limits.trusted_proxies",
            share,
            self._per_client,
        )

    def _left(self, sock: socket.socket) -> None:
        """Take the connection that was left, unless another worker has: then what waits is another one."""
        self._leaves = None
        self._resume()
        if self._accepting:
            is_taken = self._load.taken_by_others() != self._taken_by_others
            self._leaving_to_others.note(is_taken=is_taken)
            if not is_taken or not self._leaving_to_others.is_due():
                self._take(sock)

    def _look_away(self) -> None:
        self._pause()
        self._makes_room = False
        if self._away is None:
            self._away = self._loop.call_later(_AWAY_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._away = None
        self._makes_room = True
        self._resume()

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
            _log.debug("a connection was not opened: %s", reason_of(error))
            connection.close()
        except BaseException:
            connection.close()
            raise

    def _connected(self, task: asyncio.Task[None]) -> None:
        share = self._connecting.pop(task)
        if share is not None:
            self._connecting_of[share] -= 1
            if not self._connecting_of[share]:
                del self._connecting_of[share]
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection was not opened", exc_info=task.exception())
        self._note_load()  # until now it was counted twice: open, and on its way
        self._resume()


def _has_waiting(sock: socket.socket) -> bool:
    """Whether a connection waits there."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
