"""The limits of a client: connections, time for a header, time for an answer, and how slowly it may read."""

import asyncio
import fcntl
import struct
import termios
from contextvars import ContextVar
from typing import Final

from msgspec import Struct

_INT: Final = struct.Struct("=i")


class Limits(Struct, frozen=True, kw_only=True):
    """The limits of one worker; times are in seconds.

    Attributes:
        max_connections: open at once; more wait in the kernel's queue, or for another worker.
        connections_per_client: of one address, or IPv6 network.
        keepalive_timeout: after which an idle connection is closed.
        header_timeout: from the first byte of a request to the last of its header; also for a TLS handshake.
        request_timeout: until an answer begins.
        stall_timeout: for which a client may take nothing of an answer, or send nothing of a body.
        min_rate: bytes a second that a client takes at least, as long as it is the client that is waited for; 0: none.
        rate_grace: time spent waiting for a client over which its rate is measured, again and again.
        workers: their number: each of them lets a client take as much of the cores as one does.
    """

    max_connections: int = 2048
    connections_per_client: int = 256
    keepalive_timeout: float = 75.0
    header_timeout: float = 20.0
    request_timeout: float = 120.0
    stall_timeout: float = 60.0
    min_rate: int = 100_000
    rate_grace: float = 30.0
    workers: int = 4


_deadline: ContextVar[asyncio.Timeout | None] = ContextVar("deadline", default=None)


def answer_within(seconds: float) -> asyncio.Timeout:
    """A context in which the task's answer begins, or else it ends with a TimeoutError."""
    deadline = asyncio.timeout(seconds)
    _deadline.set(deadline)
    return deadline


def answer_in(seconds: float | None) -> None:
    """Set the time within which the task's answer must begin, in seconds from now; None: no limit."""
    deadline = _deadline.get()
    if deadline is not None:
        deadline.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


class Pace:
    """The pace at which one client takes one download, measured while the client is waited for."""

    __slots__ = ("_limits", "_taken", "_waited")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken = 0
        self._waited = 0.0

    @property
    def patience(self) -> float:
        """Seconds of waiting after which the result of `is_fast_enough` may change."""
        return max(0.0, self._limits.rate_grace - self._waited)

    def is_fast_enough(self, waited: float, taken: int) -> bool:
        """Whether it goes on, after `waited` more seconds, and with `taken` bytes since the beginning."""
        self._waited += waited
        if self._waited < self._limits.rate_grace:
            return True
        fast = taken - self._taken >= self._limits.min_rate * self._waited
        self._taken, self._waited = taken, 0.0
        return fast


def unsent_bytes(fd: int) -> int:
    """The bytes of a socket's output that the other end has not confirmed; 0 where the kernel does not say.

    A socket that is closed has the descriptor -1.
    """
    if fd < 0:
        return 0
    try:
        # SIOCOUTQ, by another name: tcp(7), unix(7).
        (count,) = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, _INT.pack(0)))
    except OSError:
        return 0
    return int(count)
