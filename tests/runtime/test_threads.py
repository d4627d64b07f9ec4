"""Pools of threads: bounds, names, what becomes of work whose caller has left."""

import asyncio
import gc
import os
import re
import threading
from pathlib import Path

import pytest

from harmonia_py.errors import StorageError
from harmonia_py.runtime import threads as module
from harmonia_py.runtime.threads import Pool, Threads, in_thread

CODE = Path(module.__file__).parents[1]


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_a_pool_has_as_many_threads_as_it_says_and_they_have_its_name() -> None:
    threads, two_are_inside, names = Threads(Pool.SCAN), threading.Barrier(2, timeout=30), list[str]()

    def work() -> None:
        names.append(threading.current_thread().name)
        two_are_inside.wait()

    await asyncio.gather(*[threads.run(work) for _ in range(6)])
    await threads.aclose()
    assert set(names) == {"scan_0", "scan_1"}


async def test_threads_that_compute_give_way_and_no_others_do() -> None:
    before = niceness()
    giving_way, others = Threads(Pool.COMPRESS, 1), Threads(Pool.STORE)
    try:
        assert await giving_way.run(niceness) == min(before + Pool.COMPRESS.niceness, 19)  # the kernel's most
        assert await others.run(niceness) == niceness() == before
    finally:
        await giving_way.aclose()
        await others.aclose()


async def test_what_is_opened_for_a_caller_that_has_left_is_closed() -> None:
    threads, gate, closed = Threads(Pool.BLOBS), threading.Event(), threading.Event()

    def open_() -> str:
        gate.wait(60)
        return "open"

    call = asyncio.create_task(threads.in_time(open_, undo=lambda _: closed.set()))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not closed.is_set()
    gate.set()
    assert await asyncio.to_thread(closed.wait, 30)
    await threads.aclose()


async def test_a_disk_that_does_not_answer_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DISK_SECONDS", 0.05)
    threads, gate = Threads(Pool.BLOBS), threading.Event()
    try:
        with pytest.raises(StorageError, match="does not answer"):
            await threads.in_time(lambda: gate.wait(60))
        await threads.aclose()  # which does not wait for it either
    finally:
        gate.set()


async def test_the_last_thing_to_do_is_done_also_when_the_threads_have_ended() -> None:
    threads, done = Threads(Pool.BLOBS), threading.Event()
    await threads.aclose()
    threads.later(done.set)
    assert done.is_set()


async def test_a_caller_that_is_cancelled_waits_for_the_thread_that_is_inside() -> None:
    """Otherwise the next caller would be inside at the same time."""
    threads, inside, gate = Threads(Pool.MIRROR), threading.Event(), threading.Event()
    left = False

    def work() -> None:
        nonlocal left
        inside.set()
        gate.wait(60)
        left = True

    call = asyncio.create_task(in_thread(threads, work))
    assert await asyncio.to_thread(inside.wait, 30)
    call.cancel()
    asyncio.get_running_loop().call_later(0.05, gate.set)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert left
    await threads.aclose()


async def test_a_thread_whose_caller_is_cancelled_is_told_so_before_it_is_waited_for() -> None:
    """It was told when it had ended: gigabytes were hashed for clients that had left."""
    threads, inside, given_up = Threads(Pool.MIRROR), threading.Event(), threading.Event()

    def work() -> bool:
        inside.set()
        return given_up.wait(60)

    call = asyncio.create_task(in_thread(threads, work, give_up=given_up.set))
    assert await asyncio.to_thread(inside.wait, 30)
    call.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await call
    await threads.aclose()


async def test_an_error_of_a_thread_whose_caller_is_cancelled_is_not_in_the_log() -> None:
    """A server that was stopped while it read files once more logged "Future exception was never retrieved"."""
    logged: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context))
    threads, inside, given_up = Threads(Pool.MIRROR), threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        given_up.wait(60)
        raise StorageError("given up")

    call = asyncio.create_task(in_thread(threads, work, give_up=given_up.set))
    assert await asyncio.to_thread(inside.wait, 30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await threads.aclose()
    del call
    gc.collect()
    assert logged == []


def test_every_pool_is_used_in_one_place_and_the_sums_add_up() -> None:
    """The sums are in the docstring of the module, by what a worker is for."""
    used = [name for file in CODE.rglob("*.py") for name in re.findall(r"Threads\(Pool\.([A-Z_]+)", file.read_text())]
    assert set(used) == {pool.name for pool in Pool}
    # Of the server and of commands; of NARs, and of files inside paths.
    assert sorted(name for name in used if used.count(name) > 1) == ["CHUNK", "CHUNK", "KNOWN", "KNOWN"]
    lines = re.findall(r"^    .*?  +([0-9][^=]*)= *([0-9]+)", module.__doc__ or "", re.MULTILINE)
    assert len(lines) == 4
    for terms, total in lines:
        numbers = re.sub(r"\+ `cache.jobs`|, and one a core", "", terms)
        assert eval(numbers.replace("x", "*")) == int(total), terms


async def test_a_caller_that_is_cancelled_twice_waits_for_the_thread_as_well() -> None:
    """With the second cancellation it went, and the next call was inside beside the first."""
    threads, gate, inside = Threads(Pool.BLOBS), threading.Event(), threading.Event()

    def work() -> None:
        inside.set()
        gate.wait(60)

    call = asyncio.create_task(in_thread(threads, work))
    try:
        assert await asyncio.to_thread(inside.wait, 30)
        for _ in range(3):
            call.cancel()
            done, _ = await asyncio.wait([call], timeout=0.05)
            assert not done
    finally:
        gate.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    await threads.aclose()
