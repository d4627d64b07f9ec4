"""One process of all that share a catalog collects at a time."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Final

from harmonia_py.database.collecting_lock import CollectingLock

_HOLDER: Final = """
import asyncio, sys
from pathlib import Path
from harmonia_py.database.collecting_lock import CollectingLock

async def hold():
    async with CollectingLock(Path(sys.argv[1])).hold() as is_ours:
        print(is_ours, flush=True)
        sys.stdin.readline()

asyncio.run(hold())
"""


async def test_one_collects_at_a_time_also_within_a_process(tmp_path: Path) -> None:
    first, second = CollectingLock(tmp_path / "lock"), CollectingLock(tmp_path / "lock")
    async with first.hold() as is_ours, second.hold(0.1) as is_theirs, first.hold() as is_ours_again:
        assert (is_ours, is_theirs, is_ours_again) == (True, False, False)
    async with second.hold() as is_theirs:
        assert is_theirs


async def test_what_waits_has_its_turn_when_the_other_is_done(tmp_path: Path) -> None:
    lock, begun, done = CollectingLock(tmp_path / "lock"), asyncio.Event(), asyncio.Event()

    async def collect() -> None:
        async with lock.hold():
            begun.set()
            await done.wait()

    task = asyncio.create_task(collect())
    await begun.wait()
    asyncio.get_running_loop().call_later(0.1, done.set)
    async with lock.hold(30) as is_ours:
        assert is_ours
    await task


def test_a_process_that_is_killed_holds_up_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", _HOLDER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert not asyncio.run(is_free(path))
        other.kill()
        other.wait(timeout=30)
    assert asyncio.run(is_free(path))


async def is_free(path: Path) -> bool:
    async with CollectingLock(path).hold() as is_ours:
        return is_ours
