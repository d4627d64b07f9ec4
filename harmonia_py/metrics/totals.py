"""The figures of all workers as those of one server, with what the kernel says of its processes."""

import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py import __version__
from harmonia_py.metrics import families as of
from harmonia_py.metrics.board import FAMILIES_BY_NAME, Board, SlotReading

Totals = dict[str, list[float]]
"""The numbers of each series by its name and labels, as `exposition.format_metrics` takes them."""
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


def read_figures(board: Board) -> Totals:
    """Everything that is known now. It looks into files of the kernel, so a thread does it."""
    readings = board.read()
    maker = read_process(board.maker)
    workers: dict[int, ProcessFacts] = {}
    for reading in readings:
        found = read_process(reading.process)
        # A process id may have been given to another process since.
        if found is not None and board.maker in (reading.process, found.parent):
            workers[reading.number] = found
    return {**add_up(readings, workers), **_of_processes(board.maker, maker, readings, workers)}


def add_up(readings: list[SlotReading], living: Mapping[int, object]) -> Totals:
    """The counted figures; what a worker has counted stays when it ends, and its gauges go with it."""
    totals: Totals = {}
    for reading in readings:
        for series, numbers in reading.series.items():
            family = FAMILIES_BY_NAME[series.partition("{")[0]]
            known = totals.setdefault(series, [0.0] * family.cells)
            if family.kind == "gauge" and reading.number not in living:
                continue
            merge = max if family.merge == "max" else float.__add__
            known[:] = map(merge, known, numbers)
    return totals


def _of_processes(
    maker: int, first: ProcessFacts | None, readings: list[SlotReading], workers: Mapping[int, ProcessFacts]
) -> Totals:
    figures: Totals = {
        of.processes.BUILD_INFO.series(__version__): [1.0],
        of.processes.WORKERS.series(): [float(len(workers))],
        of.processes.PROCESS_MAX_FDS.series(): [float(max_fds())],
    }
    for number, worker in workers.items():
        label = str(number)
        figures[of.processes.WORKER_CPU.series(label)] = [worker.cpu_seconds]
        figures[of.processes.WORKER_RSS.series(label)] = [float(worker.resident_bytes)]
        figures[of.processes.WORKER_FDS.series(label)] = [float(worker.open_fds)]
        figures[of.processes.WORKER_START.series(label)] = [worker.start_time]
    by_process = {reading.process: workers[reading.number] for reading in readings if reading.number in workers}
    if first is not None:
        by_process[maker] = first
    all_processes = by_process.values()
    if all_processes:
        # The first process waits for those that end, and so inherits the time they took: the sum never falls.
        ended = first.ended_children_cpu_seconds if first is not None else 0.0
        figures[of.processes.PROCESS_CPU.series()] = [sum(one.cpu_seconds for one in all_processes) + ended]
        figures[of.processes.PROCESS_RSS.series()] = [float(sum(one.resident_bytes for one in all_processes))]
        figures[of.processes.PROCESS_VIRTUAL.series()] = [float(sum(one.virtual_bytes for one in all_processes))]
        figures[of.processes.PROCESS_FDS.series()] = [float(sum(one.open_fds for one in all_processes))]
        figures[of.processes.PROCESS_START.series()] = [min(one.start_time for one in all_processes)]
    return figures
