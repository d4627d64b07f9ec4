"""Many questions, one call in a thread."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from harmonia_py.errors import HarmoniaError, StorageError
from harmonia_py.runtime.together import Together

T = TypeVar("T")


class Disk:
    """Answers with the length of each word, when it is let go; a word of three letters cannot be read."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.fails = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    def answer(self, words: list[str]) -> list[int | HarmoniaError]:
        self.calls.append(words)
        return [StorageError("unreadable") if len(word) == 3 else len(word) for word in words]

    async def run(self, call: Callable[[], T]) -> T:
        await self.goes_on.wait()
        if self.fails:
            raise StorageError("the disk does not answer")
        return call()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def together(disk: Disk) -> Together[str, int]:
    return Together.in_thread(disk.answer, disk.run)


async def test_questions_that_come_at_once_share_a_call(disk: Disk, together: Together[str, int]) -> None:
    assert await asyncio.gather(*(together.ask("x" * count) for count in (1, 2, 4))) == [1, 2, 4]
    assert disk.calls == [["x", "xx", "xxxx"]]


async def test_questions_that_come_during_a_call_share_the_next(disk: Disk, together: Together[str, int]) -> None:
    disk.goes_on.clear()
    first = asyncio.create_task(together.ask("x"))
    for _ in range(4):
        await asyncio.sleep(0)
    later = [asyncio.create_task(together.ask("x" * count)) for count in (2, 4)]
    await asyncio.sleep(0)
    disk.goes_on.set()
    assert await asyncio.gather(first, *later) == [1, 2, 4]
    assert disk.calls == [["x"], ["xx", "xxxx"]]


async def test_one_that_cannot_be_answered_fails_alone(together: Together[str, int]) -> None:
    good, bad = await asyncio.gather(together.ask("xx"), together.ask("xxx"), return_exceptions=True)
    assert good == 2
    assert isinstance(bad, StorageError)


async def test_a_call_that_fails_fails_all_its_questions_and_none_later(
    disk: Disk, together: Together[str, int]
) -> None:
    disk.fails = True
    answers = await asyncio.gather(together.ask("x"), together.ask("xx"), return_exceptions=True)
    assert all(isinstance(answer, StorageError) for answer in answers)
    disk.fails = False
    assert await together.ask("x") == 1


async def test_a_call_that_fails_in_a_way_that_was_not_foreseen_leaves_no_question_waiting() -> None:
    """Each waited until its request was given up, two minutes later."""

    def answer(_words: list[str]) -> list[int]:
        raise LookupError

    async def run(call: Callable[[], T]) -> T:
        return call()

    together: Together[str, int] = Together.in_thread(answer, run)
    async with asyncio.timeout(30):
        for word in ("first", "second"):
            with pytest.raises(StorageError):
                await together.ask(word)


async def test_a_caller_that_leaves_takes_no_answer_with_it(disk: Disk, together: Together[str, int]) -> None:
    disk.goes_on.clear()
    leaving, staying = asyncio.create_task(together.ask("x")), asyncio.create_task(together.ask("xx"))
    for _ in range(4):
        await asyncio.sleep(0)
    leaving.cancel()
    disk.goes_on.set()
    assert await staying == 2
    await together.aclose()
    assert leaving.cancelled()


async def test_questions_that_came_during_such_a_call_do_not_wait_either() -> None:
    """The call that failed was followed by none, unless another question came."""
    begun, goes_on = asyncio.Event(), asyncio.Event()

    def answer(_words: list[str]) -> list[int]:
        raise LookupError

    async def run(call: Callable[[], T]) -> T:
        begun.set()
        await goes_on.wait()
        return call()

    together: Together[str, int] = Together.in_thread(answer, run)
    async with asyncio.timeout(30):
        first = asyncio.create_task(together.ask("first"))
        await begun.wait()
        second = asyncio.create_task(together.ask("second"))
        await asyncio.sleep(0)
        goes_on.set()
        answers = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageError, StorageError]


async def test_a_call_that_is_ended_leaves_no_question_waiting(disk: Disk, together: Together[str, int]) -> None:
    disk.goes_on.clear()
    for switches in (0, 4):
        asked = [asyncio.create_task(together.ask("x"))]
        await asyncio.sleep(0)
        for _ in range(switches):
            await asyncio.sleep(0)
        asked.append(asyncio.create_task(together.ask("xx")))
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await together.cancel()
            answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StorageError, StorageError]
    disk.goes_on.set()
    assert await together.ask("x") == 1
