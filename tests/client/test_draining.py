"""A queue emptied: what has left the store keeps nothing else waiting, and costs little."""

import asyncio
from collections.abc import Collection
from pathlib import Path

from harmonia_py.client.draining import Draining
from harmonia_py.client.outcomes import Outcome, State, Summary
from harmonia_py.client.push_queue import PushQueue
from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.store_path import StoreDir, StorePath

STORE = StoreDir("/nix/store")


async def test_what_has_left_the_store_does_not_make_every_other_path_a_push_of_its_own(tmp_path: Path) -> None:
    """One of them among 20,000 was 20,000 pushes."""
    queue = PushQueue(tmp_path)
    paths = [StorePath.parse(f"{'0' * 28}{number:04}-n{number}") for number in range(256)]
    queue.add([STORE.join(path) for path in paths])
    pushes, gone = 0, paths[77]

    async def push(some: Collection[StorePath]) -> Summary:
        nonlocal pushes
        pushes += 1
        if gone in some:
            raise StorePathChanged(f"{gone} is not valid")
        return Summary(outcomes=[Outcome(path=path, state=State.PUSHED) for path in some])

    ending = asyncio.Event()
    ending.set()
    drained = await Draining(queue, push, STORE).run(ending, 60)
    assert (drained.is_empty, drained.aside) == (True, 1)
    assert queue.state().aside == [(gone, f"{gone} is not valid")]
    # Three attempts, each of which halves 256 paths eight times.
    assert pushes == 3 * (1 + 2 * 8)
