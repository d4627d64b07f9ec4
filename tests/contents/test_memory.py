"""The budget for decompressing: what fits, who waits, and for how long."""

import asyncio
import gc
import threading

import pytest

from harmonia_py.contents.codecs import MAX_WINDOW_BYTES, USUAL_WINDOW_BYTES, memory_of
from harmonia_py.contents.memory import BUDGET_BYTES, FOR_SMALL_BYTES, MIB, SMALL_BYTES, Memory
from harmonia_py.errors import Overloaded

LARGE = 100 * MIB


async def waits(task: "asyncio.Task[None]") -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


def test_the_widest_window_fits_beside_many_usual_ones() -> None:
    widest = memory_of("zstd", None, MAX_WINDOW_BYTES)
    assert widest > SMALL_BYTES
    assert widest <= BUDGET_BYTES - FOR_SMALL_BYTES
    assert memory_of("xz", None, USUAL_WINDOW_BYTES) * 12 <= FOR_SMALL_BYTES
    assert memory_of("br", None) <= SMALL_BYTES


def test_a_window_takes_no_more_than_the_nar_has() -> None:
    assert memory_of("zstd", 1000, MAX_WINDOW_BYTES) < 2 * MIB


async def test_a_share_that_does_not_fit_waits_until_another_ends() -> None:
    memory = Memory(10 * MIB, 0)
    first, second = memory.share(), memory.share()
    await first.grow(8 * MIB)
    waiting = asyncio.create_task(second.grow(4 * MIB))
    assert await waits(waiting)
    assert memory.taken == 8 * MIB
    first.close()
    await waiting
    assert memory.taken == 4 * MIB


async def test_those_that_wait_come_in_turn() -> None:
    memory = Memory(10 * MIB, 0)
    first, large, small = memory.share(), memory.share(), memory.share()
    await first.grow(8 * MIB)
    before = asyncio.create_task(large.grow(9 * MIB))
    assert await waits(before)
    behind = asyncio.create_task(small.grow(MIB))
    assert await waits(behind)  # it would fit
    first.close()
    await asyncio.gather(before, behind)


async def test_a_share_that_waits_too_long_is_refused_and_leaves_its_place() -> None:
    memory = Memory(10 * MIB, 0, longest_wait=0.05)
    first, second, third = memory.share(), memory.share(), memory.share()
    await first.grow(8 * MIB)
    with pytest.raises(Overloaded):
        await second.grow(4 * MIB)
    await third.grow(2 * MIB)  # nothing is queued
    assert memory.taken == 10 * MIB


async def test_what_waits_holds_nothing_so_that_two_do_not_wait_for_each_other() -> None:
    memory = Memory(200 * MIB, 100 * MIB)
    shares = [memory.share() for _ in range(20)]
    for share in shares:
        await share.grow(10 * MIB)
    growing = [asyncio.create_task(share.grow(LARGE)) for share in shares]
    for share, task in zip(shares, growing, strict=True):
        await task
        share.close()
    assert memory.taken == 0


async def test_large_shares_leave_room_for_small_ones() -> None:
    memory = Memory(200 * MIB, 100 * MIB)
    wide = [memory.share() for _ in range(2)]
    await wide[0].grow(LARGE)
    waiting = asyncio.create_task(wide[1].grow(LARGE))
    assert await waits(waiting)
    for _ in range(10):
        await memory.share().grow(10 * MIB)
    assert memory.taken == 200 * MIB
    waiting.cancel()


async def test_small_shares_do_not_hold_a_large_one_up_for_ever() -> None:
    memory = Memory(200 * MIB, 100 * MIB)
    small = [memory.share() for _ in range(11)]
    for share in small:
        await share.grow(10 * MIB)
    large, late = memory.share(), memory.share()
    wide = asyncio.create_task(large.grow(LARGE))
    assert await waits(wide)
    behind = asyncio.create_task(late.grow(10 * MIB))
    assert await waits(behind)  # there is room for it, which the large one waits for
    small[0].close()
    await wide
    assert await waits(behind)
    small[1].close()
    await behind


async def test_a_share_that_cannot_wait_does_not_overtake() -> None:
    memory = Memory(10 * MIB, 0)
    first, second, third = memory.share(), memory.share(), memory.share()
    assert first.try_grow(8 * MIB)
    waiting = asyncio.create_task(second.grow(4 * MIB))
    assert await waits(waiting)
    assert not third.try_grow(MIB)
    assert first.try_grow(8 * MIB)  # it has them
    waiting.cancel()
    assert await waits(waiting) is False
    assert third.try_grow(MIB)


async def test_shares_are_given_back_by_threads_and_by_the_garbage_collector() -> None:
    memory = Memory(10 * MIB, 0)

    class Owner:
        """In a cycle, so that only the collector ends it."""

        def __init__(self) -> None:
            self.share = memory.share()
            self.me = self

        def __del__(self) -> None:
            self.share.close()

    def churn() -> None:
        for _ in range(2000):
            owner = Owner()
            grown = owner.share.try_grow(MIB)
            del owner
            if grown:
                gc.collect(0)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    gc.collect()
    assert memory.taken == 0
    await memory.share().grow(10 * MIB)
