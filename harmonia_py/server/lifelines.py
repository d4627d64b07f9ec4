"""The ties of a worker to its supervisor: two pipes, and memory for its signs of life and the ends of its reloads."""

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

_BEAT: Final = struct.Struct("=d")
_RELOAD: Final = struct.Struct("=d?")
_MAX_WORKERS: Final = 1024


class Heartbeats:
    """When each worker showed last that its event loop turns, in memory that all processes share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MAX_WORKERS * _BEAT.size)

    def reset(self, index: int) -> None:
        """Another process has the place now, and has shown nothing."""
        _BEAT.pack_into(self._memory, index * _BEAT.size, 0.0)

    def beat(self, index: int) -> None:
        """Show that this one turns."""
        _BEAT.pack_into(self._memory, index * _BEAT.size, time.monotonic())

    def last(self, index: int) -> float:
        """When it was shown, by `time.monotonic`; 0 for never."""
        (last,) = _BEAT.unpack_from(self._memory, index * _BEAT.size)
        return float(last)


class Reloads:
    """How the last reload of each worker ended, in memory that all processes share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MAX_WORKERS * _RELOAD.size)

    def reset(self, index: int) -> None:
        """Another process has the place now, and has ended no reload."""
        self.note(index, 0.0, taken=False)

    def note(self, index: int, began: float, *, taken: bool) -> None:
        """Note that a worker has ended a reload.

        Args:
            index: of the worker.
            began: before it read its settings, by `time.monotonic`.
            taken: whether it serves by the settings that it has read; otherwise it goes on as it was.
        """
        _RELOAD.pack_into(self._memory, index * _RELOAD.size, began, taken)

    def taken(self, indexes: Sequence[int], since: float) -> bool | None:
        """Whether a worker has taken settings that it read after `since`, of those with these indexes.

        False when all of them have refused, and None while that is open.
        """
        ends = [_RELOAD.unpack_from(self._memory, index * _RELOAD.size) for index in indexes]
        ended = [taken for began, taken in ends if began >= since]
        if any(ended):
            return True
        return False if ended and len(ended) == len(ends) else None


class Lifelines(Struct, frozen=True):
    """The worker's ends of these ties.

    Attributes:
        index: 0 to the number of workers less one; a worker that is replaced passes it on.
        ready_fd: a pipe on which it says, once, that it serves.
        supervisor_fd: at its end when the supervisor is gone.
        heartbeats: memory in which it shows that it is not stuck.
        reloads: memory in which it notes the ends of its reloads.
        beat_seconds: between two heartbeats.
    """

    index: int
    ready_fd: int
    supervisor_fd: int
    heartbeats: Heartbeats
    reloads: Reloads
    beat_seconds: float

    def beat(self) -> None:
        """Show that the event loop turns; to be called from it, every `beat_seconds`."""
        self.heartbeats.beat(self.index)

    def report_reload(self, began: float, *, taken: bool) -> None:
        """Tell the supervisor that a reload, which began at a time by `time.monotonic`, has been taken or refused."""
        self.reloads.note(self.index, began, taken=taken)

    def report_ready(self) -> None:
        """Tell the supervisor, once. From now on SIGHUP arrives, also one that was sent before."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        # A worker that is one too many already is not listened to any more.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.ready_fd, b"+")
        os.close(self.ready_fd)
