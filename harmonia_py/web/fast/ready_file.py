"""A ready file on its way to a client, driven by the event loop alone: no thread, no task, no framework.

A kept NAR of a few hundred KiB takes the kernel fifty microseconds to send; a thread and back, parsing, routing and
building a response take three times as long. So files that were sent a while ago and are still open go out as nginx
sends them: headers and the first bytes in one write, the rest by `sendfile` for as long as the socket takes it.

The loop must not wait for the disk: before each portion it looks whether the page cache has it (`RWF_NOWAIT`), and
where it has not, a thread reads the portion first.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, NamedTuple

from msgspec import Struct

from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.web.admission.limits import Limits, Pace, unsent_bytes

# Bytes that are read and written together with the headers. A file up to this size is sent in one system call.
FIRST_BYTES: Final = 64 * 1024
# Between two looks at the page cache, and between two turns of the loop: half a millisecond of copying.
PORTION_BYTES: Final = 1024 * 1024
_PAGE: Final = 4096
# Between two tries to write to a socket that cannot be watched.
_RETRY_SECONDS: Final = 0.05


class First(NamedTuple):
    """The beginning of an answer: headers, and `size` bytes of the file."""

    data: bytes
    size: int


class ReadyFile(Struct, eq=False):
    """A download that is one open file, with the headers of its answer. Its last user releases it.

    Attributes:
        head: status line and headers up to the value of `Date`.
        tail: the headers after it, and the empty line.
        file: the whole body.
        download: keeps the file open; this object owns it from now on.
        is_coded_for_some: whether clients that accept a coding get a coded body instead.
    """

    head: bytes
    tail: bytes
    file: FileSlice
    download: Download
    is_coded_for_some: bool = False
    _users: int = 1

    def first(self, date: bytes) -> First | None:
        """The headers with as many of the first bytes of the file as the page cache has; None: it has none."""
        buffer = bytearray(min(self.file.size, FIRST_BYTES))
        try:
            count = os.preadv(self.file.fd, [buffer], self.file.offset, os.RWF_NOWAIT)
        except OSError:
            # A thread shall wait for the disk.
            return None
        if count == 0 < self.file.size:
            return None
        return First(b"".join((self.head, date, self.tail, memoryview(buffer)[:count])), count)

    def is_unchanged(self) -> bool:
        """Whether the file still has the bytes that it had when it was opened, as far as a look can tell."""
        return self.download.is_unchanged()

    def use(self) -> None:
        """Note that one more transfer sends the file."""
        self._users += 1

    def leave(self) -> None:
        """Note that a transfer has ended, or that the file is not ready any more; the last user releases the file."""
        self._users -= 1
        if self._users == 0:
            self.download.release()


class FileTransfer:
    """Sends bytes and then a file through the descriptor of a transport that has nothing buffered.

    Args:
        transport: of the connection.
        threads: wait for the disk.
        limits: how long the client may take nothing, and how slowly it may read.
        done: called once: with True when everything was sent, with False when the connection must be cut.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        threads: Executor,
        limits: Limits,
        done: Callable[[bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd: int = transport.get_extra_info("socket").fileno()
        self._threads = threads
        self._stall_timeout = limits.stall_timeout
        self._pace = Pace(limits)
        # Since when the client is waited for.
        self._blocked_at: float | None = None
        self._done = done
        self._first = memoryview(b"")
        self._file = FileSlice(-1, 0, 0)
        # Offsets in the file: its start, the next byte, its end, and the end of what the page cache had when checked.
        self._began = self._next = self._end = self._cached = 0
        self._first_size = 0
        # A duplicate of the socket, while we wait until it can be written.
        self._watched: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._taken_at_check: int | None = None
        self._over = False

    @property
    def sent(self) -> int:
        """The number of bytes that have gone to the socket."""
        return self._first_size - len(self._first) + self._next - self._began

    def start(self, first: First, ready: ReadyFile) -> None:
        """Send what `ready.first` made, and the rest of the file."""
        self._first = memoryview(first.data)
        self._first_size = len(first.data)
        self._file = ready.file
        self._began = self._next = self._cached = ready.file.offset + first.size
        self._end = ready.file.offset + ready.file.size
        self._run()

    def cancel(self) -> None:
        """Give up the connection, which is lost. `done` is not called any more."""
        self._over = True
        self._let_go()

    def _run(self) -> None:
        if self._over or not self._is_on_time():
            return
        limit = self._next + PORTION_BYTES
        try:
            while self._first:
                # A view of nothing that is left would hold all that has been sent for as long as the transfer takes.
                self._first = self._first[os.write(self._fd, self._first) :] or memoryview(b"")
            while self._next < self._end:
                if self._next >= limit:
                    self._unwatch()
                    self._loop.call_soon(self._run)
                    return
                if self._next >= self._cached and not self._look():
                    self._unwatch()
                    self._read_ahead()
                    return
                count = os.sendfile(self._fd, self._file.fd, self._next, self._cached - self._next)
                if count == 0:  # the file has become shorter
                    self._finish(sent=False)
                    return
                self._next += count
        except BlockingIOError:
            self._watch()
        except OSError:
            self._finish(sent=False)
        else:
            self._finish(sent=True)

    def _look(self) -> bool:
        """Whether the next portion is in the page cache, judged by its first and its last page."""
        stop = min(self._next + PORTION_BYTES, self._end)
        byte = bytearray(1)
        try:
            for place in (self._next, max(self._next, stop - _PAGE)):
                if os.preadv(self._file.fd, [byte], place, os.RWF_NOWAIT) != 1:
                    return False
        except OSError:
            return False
        self._cached = stop
        return True

    def _read_ahead(self) -> None:
        size = min(PORTION_BYTES, self._end - self._next)
        reading = self._loop.run_in_executor(self._threads, os.pread, self._file.fd, size, self._next)
        reading.add_done_callback(self._has_read)

    def _has_read(self, reading: asyncio.Future[bytes]) -> None:
        if reading.cancelled() or reading.exception() is not None or not reading.result():
            if not self._over:
                self._finish(sent=False)
            return
        self._cached = self._next + len(reading.result())
        self._run()

    def _watch(self) -> None:
        """Go on when the socket can be written."""
        self._blocked_at = self._loop.time()
        if self._watched is None:
            # The loop lets one owner watch a descriptor, and the transport watches its own.
            try:
                self._watched = socket.socket(fileno=os.dup(self._fd))
            except OSError:
                # Out of descriptors: try again after a pause.
                self._loop.call_later(_RETRY_SECONDS, self._run)
            else:
                self._loop.add_writer(self._watched, self._run)
        if self._timer is None:
            self._timer = self._loop.call_later(self._stall_timeout, self._check)

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._loop.remove_writer(self._watched)
            self._watched.close()
            self._watched = None

    def _taken(self) -> int:
        return self.sent - unsent_bytes(self._fd)

    def _is_on_time(self) -> bool:
        """Give up on a client that took too long to take too little."""
        if self._blocked_at is None:
            return True
        blocked_at, self._blocked_at = self._blocked_at, None
        if self._pace.is_fast_enough(self._loop.time() - blocked_at, self._taken()):
            return True
        self._finish(sent=False)
        return False

    def _check(self) -> None:
        """Give up when nothing has been taken since the last look.

        A socket can be written when a third of its output has left, which may be more than a MiB: until then nothing is
        sent, although the client takes some.
        """
        taken = self._taken()
        if taken == self._taken_at_check:
            self._finish(sent=False)
            return
        self._taken_at_check = taken
        self._timer = self._loop.call_later(self._stall_timeout, self._check)

    def _finish(self, *, sent: bool) -> None:
        self._over = True
        self._let_go()
        self._done(sent)

    def _let_go(self) -> None:
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()


class FileUnderWay(Struct, frozen=True):
    """A file on its way to a client.

    Attributes:
        transfer: sends it.
        file: what is sent.
        target: of the request, with its first slash.
        began: when the request came, by `time.perf_counter`.
    """

    transfer: FileTransfer
    file: ReadyFile
    target: str
    began: float
