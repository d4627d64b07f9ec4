"""What a server costs: processor time and memory of its whole process tree, read from /proc."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_SECONDS = 0.2  # smaps_rollup walks page tables: often enough to see a peak, too seldom to cost one
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process and all that descend from it."""

    pid: int

    def members(self) -> Iterator[int]:
        """Process ids, the root first."""
        pending = [self.pid]
        while pending:
            pid = pending.pop()
            yield pid
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pending += map(int, _read(children).split())

    def cpu_seconds(self) -> float:
        """User and system time so far, that of children that ended included."""
        ticks = 0
        for pid in self.members():
            fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime stime cutime cstime; proc(5) counts from 1
        return ticks / _TICKS

    def pss(self) -> int:
        """Bytes of memory, what is shared counted in equal parts."""
        return self._memory("Pss:")

    def private(self) -> int:
        """Bytes of memory that no other process shares."""
        return self._memory("Private_Clean:", "Private_Dirty:")

    def _memory(self, *fields: str) -> int:
        total = 0
        for pid in self.members():
            for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
                if line.startswith(fields):
                    total += int(line.split()[1]) * 1024
        return total


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # the process has just ended
        return ""


class Watch:
    """Measures a process tree while the `with` block runs.

    Attributes:
        cpu_seconds: spent in the block; valid after it.
        peak_pss: largest sample, in bytes.
    """

    def __init__(self, tree: ProcessTree | None) -> None:
        self._tree = tree
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.cpu_seconds: float | None = None
        self.peak_pss: int | None = None

    def __enter__(self) -> Self:
        if self._tree is not None:
            self._before = self._tree.cpu_seconds()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tree is not None:
            self.cpu_seconds = self._tree.cpu_seconds() - self._before
            self._done.set()
            self._thread.join()

    def _sample(self) -> None:
        assert self._tree is not None
        self.peak_pss = self._tree.pss()
        while not self._done.wait(SAMPLE_SECONDS):
            self.peak_pss = max(self.peak_pss, self._tree.pss())
