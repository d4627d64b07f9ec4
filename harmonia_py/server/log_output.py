"""Standard error as a server writes to it: without ever waiting for the reader.

A pipe that is not read holds 64 KiB; then a write waits, and with it the event loop of a worker, or the supervisor.
Here what the reader does not take is held up to a bound, and dropped beyond it, with a line that says how much.
"""

import errno
import os
import select
import stat
import threading
from collections.abc import Callable
from typing import Final

# Bytes that are held for a reader that comes back: a few thousand lines.
MAX_HELD_BYTES: Final = 1024 * 1024

_CANNOT_TELL: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE})


class LogOutput:
    """Writes whole lines to a descriptor, as a stream does for `logging.StreamHandler`. Safe to use from many threads.

    Args:
        fd: of a pipe or a socket, or of what is written to as it is.
        describe_dropped: the line, with its end, that says how many lines were dropped.
        max_held: bytes that are held.
    """

    def __init__(self, fd: int, describe_dropped: Callable[[int], str], max_held: int = MAX_HELD_BYTES) -> None:
        self._fd = fd
        self._describe_dropped = describe_dropped
        self._max_held = max_held
        self._held = bytearray()
        self._dropped = 0
        # Of a file no write tells beforehand whether its disk waits; a terminal that stands still was stopped by the
        # person in front of it.
        mode = os.fstat(fd).st_mode
        self._write_some = self._write_at_once if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else os.write
        self._lock = threading.Lock()
        self._process = os.getpid()

    def write(self, text: str) -> None:
        """Write `text`, whole lines, now or as soon as the reader takes it; or drop it when too much is held."""
        data = text.encode(errors="backslashreplace")
        with self._lock:
            if self._process != os.getpid():
                self._begin_anew()
            self._write_held()
            if self._dropped and not self._held:
                self._held += self._describe_dropped(self._dropped).encode()
                self._dropped = 0
            if len(self._held) + len(data) > self._max_held:
                self._dropped += data.count(b"\n")
                return
            self._held += data
            self._write_held()

    def flush(self) -> None:
        """Write the held lines, as far as the reader takes them."""
        with self._lock:
            self._write_held()

    def _write_held(self) -> None:
        try:
            while self._held:
                del self._held[: self._write_some(self._fd, self._next())]
        except BlockingIOError:
            return
        except OSError:  # there is no reader any more
            self._dropped += self._held.count(b"\n")
            self._held.clear()

    def _next(self) -> bytes:
        """Lines that a pipe takes as a whole or not at all (pipe(7)), so that those of several processes stay apart."""
        end = self._held.rfind(b"\n", 0, select.PIPE_BUF) + 1
        return bytes(self._held[: end or select.PIPE_BUF])

    def _write_at_once(self, fd: int, data: bytes) -> int:
        try:
            return os.pwritev(fd, [data], -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _CANNOT_TELL:
                raise
        # A kernel before 6.4. Between the look and the write another process may fill a pipe: so this is
        # not the first choice.
        self._write_some = _write_when_writable
        return _write_when_writable(fd, data)

    def _begin_anew(self) -> None:
        """Drop the held lines after a fork: the parent writes them."""
        self._process = os.getpid()
        self._held.clear()
        self._dropped = 0


def _write_when_writable(fd: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data)
