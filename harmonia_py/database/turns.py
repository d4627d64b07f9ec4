"""The turns of all processes at writing, and the numbers of changes: one small file beside the database.

SQLite's own waiting is unfair: of three writers that write without a break one waited for seconds. `flock` gives turns
in the order in which they were asked for. The file is mapped into memory and holds a number for each topic, odd while a
change is under way and even when it is done. So a look at whether anything has changed is a look at memory. A writer
that dies in the middle leaves an odd number: then answers are looked up each time, until the next writer has its turn.
"""

import fcntl
import mmap
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harmonia_py.database.transaction import Topic

_SIZE: Final = 4096


class Turns:
    """One process's view of the file. `take` blocks; everything else is a look at memory.

    Raises:
        OSError: the file cannot be opened, locked or mapped.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Never shorter, never other bytes: another process may have it mapped already.
            os.truncate(self._file, max(_SIZE, os.fstat(self._file).st_size))
            self._memory = mmap.mmap(self._file, _SIZE)
            self._numbers: memoryview[int] = memoryview(self._memory).cast("Q")
        except BaseException:
            os.close(self._file)
            raise

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for the turn and hold it."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            for topic in Topic:
                # Only who has the turn changes numbers: an odd one is of a writer that died.
                self._numbers[topic.value] += self._numbers[topic.value] & 1
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    @contextmanager
    def changing(self, topics: Collection[Topic]) -> Iterator[None]:
        """Tell everybody that something changes; the caller has the turn."""
        for topic in topics:
            self._numbers[topic.value] |= 1
        try:
            yield
        finally:
            for topic in topics:
                self._numbers[topic.value] += 1

    def generation(self, topic: Topic) -> int | None:
        """As in `Database`."""
        number = self._numbers[topic.value]
        return None if number & 1 else number

    def watch(self, topic: Topic) -> "memoryview[int]":
        """The number of `topic` as the only element, in memory of its own that lasts as long as it is held."""
        memory = mmap.mmap(self._file, _SIZE, prot=mmap.PROT_READ)
        return memoryview(memory).cast("Q")[topic.value : topic.value + 1]

    def close(self) -> None:
        """Close the file."""
        self._numbers.release()
        self._memory.close()
        os.close(self._file)
