"""Turns at what costs much."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from waiting import eventually

from harmonia_py.errors import Overloaded, StorageError
from harmonia_py.runtime.turns import Turns


class Work:
    """Notes which client is let in; ends each when it is told to."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.running: list[str] = []
        self.order: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def begin(self, name: str) -> asyncio.Task[None]:
        """`name` is the client's and a digit."""
        self._ends[name] = asyncio.Event()
        return asyncio.create_task(self._do(name))

    def end(self, name: str) -> None:
        self._ends[name].set()

    async def _do(self, name: str) -> None:
        async with self.turns.take(name[0]):
            self.running.append(name)
            self.order.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)


async def test_a_client_waits_for_itself_and_others_go_first() -> None:
    work = Work(Turns(at_once=2, per_client=1))
    tasks = [work.begin(name) for name in ("a1", "a2", "a3", "a4")]
    await eventually(lambda: work.running == ["a1"])
    tasks.append(work.begin("b1"))
    await eventually(lambda: work.running == ["a1", "b1"])
    tasks += [work.begin(name) for name in ("c1", "b2")]
    await asyncio.sleep(0)
    work.end("a1")
    await eventually(lambda: len(work.order) == 3)
    # a has just had a turn, so c comes first, and then a2 before a3.
    assert work.order[2] == "c1"
    work.end("c1")
    await eventually(lambda: len(work.order) == 4)
    assert work.order[3] == "a2"
    for name in ("b1", "b2", "a2", "a3", "a4"):
        work.end(name)
    await asyncio.gather(*tasks)
    assert sorted(work.order) == ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]


async def test_a_client_that_is_cancelled_leaves_no_turn_behind() -> None:
    work = Work(Turns(at_once=1, per_client=1))
    first, second, third = (work.begin(name) for name in ("a1", "b1", "c1"))
    await eventually(lambda: work.running == ["a1"])
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    work.end("a1")
    await first
    await eventually(lambda: work.running == ["c1"])
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    with work.turns.take_now("d") as begun:
        assert begun


async def test_a_turn_that_comes_with_the_cancellation_goes_to_the_next() -> None:
    turns = Turns(at_once=1, per_client=1)
    work = Work(turns)
    async with AsyncExitStack() as held:
        await held.enter_async_context(turns.take("a"))
        waiting = work.begin("b1")
        await asyncio.sleep(0)
        await held.aclose()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    with turns.take_now("c") as begun:
        assert begun


async def test_a_client_rests_after_its_turn_and_others_do_not() -> None:
    turns = Turns(at_once=2, per_client=1, rest=2.0)
    clock = asyncio.get_running_loop().time
    async with turns.take("a"):
        await asyncio.sleep(0.05)
        ends = clock()
    with turns.take_now("b") as begun:
        assert begun
    async with turns.take("a"):
        assert clock() - ends >= 0.09


async def test_a_turn_that_is_not_there_is_not_waited_for() -> None:
    turns = Turns(at_once=2, per_client=1)
    with turns.take_now("a") as first, turns.take_now("a") as second, turns.take_now("b") as other:
        assert (first, second, other) == (True, False, True)
        with turns.take_now("c") as full:
            assert not full
    with turns.take_now("a") as again:
        assert again


class TestRounds:
    def test_clients_are_served_in_rounds_however_much_one_of_them_wants(self) -> None:
        async def order() -> str:
            turns, served = Turns(1), []
            waiting = [("a", turns.take("a")) for _ in range(4)]
            waiting += [(client, turns.take(client)) for client in "bbc"]
            while waiting:
                ((client, turn),) = [one for one in waiting if not one[1].is_waiting]
                served.append(client)
                waiting.remove((client, turn))
                turn.leave()
            assert turns.free == 1
            return "".join(served)

        assert asyncio.run(order()) == "abcabaa"

    async def test_who_has_fewer_turns_comes_first(self) -> None:
        turns = Turns(3)
        running = [turns.take("a") for _ in range(3)]
        third, other = turns.take("a"), turns.take("b")
        running[0].leave()
        assert (third.is_waiting, other.is_waiting) == (True, False)

    async def test_a_turn_that_is_given_up_is_nobodys(self) -> None:
        turns = Turns(1)
        first, second, third = (turns.take(client) for client in "abc")
        second.leave()
        first.leave()
        assert not third.is_waiting
        assert not turns.is_wanted
        third.leave()
        third.leave()
        assert turns.free == 1

    async def test_what_two_clients_wait_for_comes_when_the_first_of_them_is_served(self) -> None:
        turns = Turns(1)
        first = turns.take("a")
        queued = [turns.take("a") for _ in range(3)]
        queued[2].share("b")
        first.leave()
        assert [turn.is_waiting for turn in queued] == [True, True, False]

    async def test_who_waits_too_long_is_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harmonia_py.runtime.turns.LONGEST_WAIT_SECONDS", 0.01)
        turns = Turns(1)
        first, second = turns.take("a"), turns.take("b")
        await first.wait()
        with pytest.raises(StorageError):
            await second.wait()

    async def test_when_no_turn_comes_any_more_those_that_wait_are_told_and_those_that_have_one_go_on(self) -> None:
        turns = Turns(1)
        async with turns.take("a"):
            waiting = asyncio.create_task(turns.take("b").granted())
            await asyncio.sleep(0)
            turns.close()
            with pytest.raises(Overloaded):
                await waiting
        with pytest.raises(Overloaded):
            await turns.take("c").granted()
