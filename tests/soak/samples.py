"""What the service holds, every few seconds, and whether that is flat."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watched import memory_of

_MIB: Final = 1024 * 1024
# Of each process. What allocators keep of what was freed moves by as much from one third to the next.
MEMORY_MARGIN: Final = 8 * _MIB
# Of all together. What a reload replaces keeps up to 256 files open for half a minute more, and its threads; how many
# there are of these is chance. What is left when all is over has a stricter limit, in `__main__.py`.
DESCRIPTORS_MARGIN: Final = 256
THREADS_MARGIN: Final = 64
# Pools grow and modules are imported in the first moments.
_WARM_UP: Final = 0.1
_FEWEST: Final = 9


@dataclass(frozen=True, slots=True)
class Sample:
    """All processes of the service together; `private` is what their end would free, in bytes."""

    at: float
    processes: int
    private: int
    proportional: int
    descriptors: int
    threads: int


def take(processes: Sequence[int], at: float) -> Sample | None:
    """None when one of them has ended meanwhile."""
    try:
        return Sample(
            at,
            len(processes),
            sum(map(memory_of, processes)),
            sum(map(_proportional, processes)),
            sum(len(list(Path(f"/proc/{process}/fd").iterdir())) for process in processes),
            sum(len(list(Path(f"/proc/{process}/task").iterdir())) for process in processes),
        )
    except (FileNotFoundError, ProcessLookupError):
        return None


def _proportional(process: int) -> int:
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def family(leader: str, main: int) -> list[int]:
    """The service's main process, which is `main` in the machine of `leader`, and its children, as they are here."""
    namespace = Path(f"/proc/{leader}/ns/pid").readlink()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "ns/pid").readlink() == namespace and _inner(folder) == main:
                children = (folder / "task" / folder.name / "children").read_text().split()
                return [int(folder.name), *map(int, children)]
        except OSError:
            continue
    return []


def _inner(folder: Path) -> int:
    for line in (folder / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return 0


def growth(samples: Sequence[Sample]) -> list[str]:
    """What is higher in the last third than in the middle one, by more than its margin."""
    warm = samples[int(len(samples) * _WARM_UP) :]
    if len(warm) < _FEWEST:
        return ["there are too few samples to tell"]
    third = len(warm) // 3
    middle, last = warm[third : 2 * third], warm[2 * third :]
    processes = max(sample.processes for sample in warm)
    found = []
    for name, margin, value in (
        ("private memory", MEMORY_MARGIN * processes, lambda sample: sample.private),
        ("descriptors", DESCRIPTORS_MARGIN, lambda sample: sample.descriptors),
        ("threads", THREADS_MARGIN, lambda sample: sample.threads),
    ):
        found += _growth(name, margin, value, middle, last)
    return found


def _growth(
    name: str, margin: int, value: Callable[[Sample], int], middle: Sequence[Sample], last: Sequence[Sample]
) -> list[str]:
    before, after = (statistics.median(map(value, part)) for part in (middle, last))
    if after <= before + margin:
        return []
    return [f"{name}: {before:,.0f} in the middle third, {after:,.0f} in the last; {margin:,} more is allowed"]
