"""Work that a process does on a copy of a directory, and that is killed at each of its steps in turn.

    steps = await killed_at_each_step(tmp_path / "template", partial(chunking_steps.run, ...), holds)

A module such as `chunking_steps` does the work: `run(directory, name, number, told)` ends at the step `number` by
SIGKILL, or writes to the file `told` how many steps there were.
"""

import asyncio
import multiprocessing
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

_AT_ONCE: Final = 2
# A start of an interpreter for each step would take most of the time.
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["harmonia_py.wiring.collecting", "harmonia_py.wiring.kept_directory"])

Run = Callable[[Path, str, int, Path], None]


async def killed_at_each_step(template: Path, run: Run, name: str, holds: Callable[[Path], Awaitable[None]]) -> int:
    """How many steps there were; after the end at each of them `holds` says whether all is well in the directory."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def kill_at(number: int) -> int | None:
        async with slots:
            directory = template.parent / f"step-{number}"
            await asyncio.to_thread(shutil.copytree, template, directory)
            status, output = await _work(run, directory, name, number)
            assert status in {0, -signal.SIGKILL}, f"step {number}: {output}"
            await holds(directory)
            await asyncio.to_thread(shutil.rmtree, directory)
            return int(output) if status == 0 else None

    steps = await kill_at(10_000)
    assert steps is not None
    ended = await asyncio.gather(*map(kill_at, range(1, steps + 1)))
    assert ended == [None] * steps
    return steps


async def _work(run: Run, directory: Path, name: str, number: int) -> tuple[int, str]:
    """The status that a process ends with which does this work, and what it wrote at its end."""
    told = directory.with_suffix(".told")
    process = _FORKS.Process(target=run, args=(directory, name, number, told))
    process.start()
    await asyncio.to_thread(process.join, 120)
    assert process.exitcode is not None
    return process.exitcode, told.read_text() if told.exists() else ""
