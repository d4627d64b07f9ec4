"""Facts that one worker has learnt and all others know at once, in memory that the supervisor maps before it forks.

A process changes numbers while it has the lock, a record lock of `fcntl(2)`. The kernel takes the lock from a process
that ends, however it ends. A process that has the lock and stands still delays the others for a moment only: then their
change is not made, and `change` says so. Such a lock belongs to a process and not to a thread: only the event loop
changes numbers.

Texts need no lock: each carries its digest, so a text that two processes wrote at the same time is not read.
"""

import errno
import fcntl
import hashlib
import logging
import mmap
import os
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

_log = logging.getLogger(__name__)

Numbers = tuple[float, ...]

# In each row, after the digest of its name.
NUMBERS: Final = 3
_COLUMNS: Final = 1 + NUMBERS
_WORD: Final = 8
# Of a supervisor's whole life; a row is never given back.
_ROWS: Final = 1024

_DIGEST_BYTES: Final = 16
# Before each text: its digest, in which its name is, and its length.
_HEAD: Final = struct.Struct(f"={_DIGEST_BYTES}sI")
# A narinfo with seventy references has 4 KiB. Pages that are not used take no memory: 8 MiB at most, of all workers.
_TEXT_BYTES: Final = 4096
_TEXTS: Final = 2048
# A change takes some ten microseconds, but the process that makes it may have to wait for a processor.
_PATIENCE_SECONDS: Final = 0.02
# A worker that gets no row shares nothing for its whole life. Workers ask for them together, when they start.
_ROW_PATIENCE_SECONDS: Final = 1.0
_HELD: Final = frozenset({errno.EACCES, errno.EAGAIN})


class _Lock:
    """A lock that one process holds at a time, on a file without a name."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("harmonia-lock")
        weakref.finalize(self, os.close, self._fd)

    @contextmanager
    def held(self, patience: float = _PATIENCE_SECONDS) -> Iterator[bool]:
        """Hold the lock inside the context, which gives whether it could be had within so many seconds."""
        if not self._acquire(patience):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _acquire(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD:
                    raise
            else:
                return True
            if time.monotonic() > deadline:
                return False
            os.sched_yield()


class Row:
    """A few numbers under a name."""

    __slots__ = ("_cells", "_lock", "_start")

    def __init__(self, cells: "memoryview[float]", start: int, lock: _Lock | None) -> None:
        self._cells = cells
        self._start = start
        self._lock = lock

    @classmethod
    def alone(cls) -> "Row":
        """One that no other process sees."""
        return cls(memoryview(bytearray(NUMBERS * _WORD)).cast("d"), 0, None)

    def read(self) -> Numbers:
        """The numbers, each whole; while another process changes them, some may be old and some new."""
        return tuple(self._cells[self._start : self._start + NUMBERS])

    def change(self, change: Callable[[Numbers], Numbers]) -> bool:
        """Put what `change` makes of the numbers in their place, the last one first; False when it is not made."""
        with nullcontext(True) if self._lock is None else self._lock.held() as held:
            if held:
                before = self.read()
                for column, number in reversed(list(enumerate(change(before)))):
                    if number != before[column]:
                        self._cells[self._start + column] = number
            return held


class SharedNumbers:
    """The rows. Make it before the fork."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, _ROWS * _COLUMNS * _WORD))
        self._names = self._memory.cast("Q")
        self._cells: memoryview[float] = self._memory.cast("d")
        self._lock = _Lock()

    def row(self, name: str) -> Row:
        """The row with this name, with zeros at first."""
        tag = _tag(name)
        with self._lock.held(_ROW_PATIENCE_SECONDS) as held:
            for row in range(_ROWS if held else 0):
                at = (tag + row) % _ROWS * _COLUMNS
                if self._names[at] in (0, tag):
                    self._names[at] = tag
                    return Row(self._cells, at + 1, self._lock)
        _log.warning("%s: this worker shares nothing that it learns", name)
        return Row.alone()


class SharedTexts:
    """Short texts under names, each in its one place, which it may lose to another. Make it before the fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _TEXTS * _TEXT_BYTES)

    def put(self, name: str, text: bytes) -> None:
        """Let all processes know, unless it is too long; what they knew they forget in any case."""
        if len(text) > _TEXT_BYTES - _HEAD.size:
            self.remove(name)
            return
        start = _place(name)
        head = _HEAD.pack(_digest(name, text), len(text))
        self._memory[start : start + _HEAD.size + len(text)] = head + text

    def get(self, name: str) -> bytes | None:
        """The text that was put under this name, if it is still there."""
        start = _place(name)
        slot = self._memory[start : start + _TEXT_BYTES]  # a copy, so that it does not change meanwhile
        digest, length = _HEAD.unpack_from(slot)
        text = slot[_HEAD.size : _HEAD.size + length]
        return text if len(text) == length and digest == _digest(name, text) else None

    def remove(self, name: str) -> None:
        """Forget the text; one of another name that has its place goes as well."""
        start = _place(name)
        self._memory[start : start + _HEAD.size] = bytes(_HEAD.size)


def _place(name: str) -> int:
    return _tag(name) % _TEXTS * _TEXT_BYTES


def _digest(name: str, text: bytes) -> bytes:
    return hashlib.blake2b(name.encode() + b"\0" + text, digest_size=_DIGEST_BYTES).digest()


def _tag(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=_WORD).digest(), "little") or 1
