"""The kernel's figures of a process: proc(5)."""

import os
import resource
import time
from pathlib import Path
from typing import Final

from msgspec import Struct

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class ProcessFacts(Struct, frozen=True):
    """One process, now.

    Attributes:
        parent: its parent's process id.
        cpu_seconds: in user mode and in the kernel.
        ended_children_cpu_seconds: of its children that have ended, and of theirs.
        resident_bytes: memory, with what it shares.
        virtual_bytes: address space.
        open_fds: open descriptors.
        start_time: in Unix time.
    """

    parent: int
    cpu_seconds: float
    ended_children_cpu_seconds: float
    resident_bytes: int
    virtual_bytes: int
    open_fds: int
    start_time: float


def read_process(process: int) -> ProcessFacts | None:
    """The figures of `process`; None when there is none, or it is not ours to look at."""
    directory = Path(f"/proc/{process}")
    try:
        text = (directory / "stat").read_text(errors="replace")
        open_fds = len(os.listdir(directory / "fd"))  # noqa: PTH208  # only the number of names matters
    except OSError:
        return None
    # The second field is a name in parentheses that may hold anything. After it, these begin with the third.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return ProcessFacts(
        parent=int(fields[1]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        ended_children_cpu_seconds=(int(fields[13]) + int(fields[14])) / _TICKS,
        virtual_bytes=int(fields[20]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
        open_fds=open_fds,
        start_time=_boot_time() + int(fields[19]) / _TICKS,
    )


def max_fds() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _boot_time() -> float:
    # Not from /proc/stat, which a service that sees processes alone (ProcSubset=pid) cannot read.
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
