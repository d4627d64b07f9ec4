"""The ties of a worker to its supervisor: two pipes, and memory in which it shows that it is not stuck."""

import contextlib
import mmap
import os
import signal
import time
from typing import Final

from msgspec import Struct

_MAX_WORKERS: Final = 1024


class Heartbeats:
    """When each worker showed last that its event loop turns, in memory that all processes share."""

    def __init__(self) -> None:
        # Numbers that are written at once: `struct` writes them byte by byte, and a reader in between saw none.
        self._last = memoryview(mmap.mmap(-1, _MAX_WORKERS * 8)).cast("d")

    def reset(self, index: int) -> None:
        """Another process has the place now, and has shown nothing."""
        self._last[index] = 0.0

    def beat(self, index: int) -> None:
        """Show that this one turns."""
        self._last[index] = time.monotonic()

    def last(self, index: int) -> float:
        """When it was shown, by `time.monotonic`; 0 for never."""
        return self._last[index]


class Reloads:
    """The numbers of the last reload, and of the last one that a worker has taken, in memory that all processes share.

    The start is number 0, and taken.
    """

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 16)).cast("Q")

    @property
    def begun(self) -> int:
        """The last reload that workers were told of."""
        return self._numbers[0]

    @property
    def taken(self) -> int:
        """The last reload that a worker has taken."""
        return self._numbers[1]

    def begin(self) -> None:
        """Begin the next one."""
        self._numbers[0] += 1

    def take(self, number: int) -> None:
        """Note that this process serves by the settings of this reload."""
        self._numbers[1] = max(number, self._numbers[1])


class Lifelines(Struct, frozen=True):
    """The worker's ends of these ties.

    Attributes:
        index: 0 to the number of workers less one; a worker that is replaced passes it on.
        ready_fd: a pipe on which it says, once, that it serves.
        supervisor_fd: at its end when the supervisor is gone.
        heartbeats: memory in which it shows that it is not stuck.
        beat_seconds: between two heartbeats.
    """

    index: int
    ready_fd: int
    supervisor_fd: int
    heartbeats: Heartbeats
    beat_seconds: float

    def beat(self) -> None:
        """Show that the event loop turns; to be called from it, every `beat_seconds`."""
        self.heartbeats.beat(self.index)

    def report_ready(self) -> None:
        """Tell the supervisor, once. From now on SIGHUP arrives, also one that was sent before."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        # A worker that is one too many already is not listened to any more.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.ready_fd, b"+")
        os.close(self.ready_fd)
