"""Work that runs once for all callers."""

import asyncio
import gc

import pytest

from harmonia_py.runtime.tasks import SingleFlight, wake


class Work:
    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()

    async def run(self) -> int:
        self.begun += 1
        await self.gate.wait()
        return self.begun


async def test_callers_that_ask_meanwhile_share_one_result_and_the_next_one_begins_anew() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(flights.do("a", work.run)) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(flights) == 1
    work.gate.set()
    assert await asyncio.gather(*callers) == [1, 1, 1]
    assert len(flights) == 0
    assert await flights.do("a", work.run) == 2


async def test_a_caller_that_leaves_does_not_end_the_work() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    work = Work()
    leaving, staying = (asyncio.create_task(flights.do("a", work.run)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    work.gate.set()
    assert await staying == 1


async def test_an_error_goes_to_every_caller_and_is_no_complaint_without_one() -> None:
    """asyncio complains of an exception that was never retrieved, and in tests a warning is an error."""
    flights: SingleFlight[str, int] = SingleFlight()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("no")

    callers = [asyncio.create_task(flights.do("a", fail)) for _ in range(2)]
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(result) for result in results] == ["no", "no"]
    flights.begin("a", fail)
    await flights.wait()
    gc.collect()
    assert flights.get("a") is None


async def test_closing_ends_what_is_under_way() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    task = flights.begin("a", Work().run)
    await asyncio.sleep(0)
    await flights.aclose()
    assert task.cancelled()


async def test_what_waits_no_more_is_not_woken() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    wake(future)
    assert future.cancelled()
