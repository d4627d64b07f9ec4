"""A catalog that fails for a while: which questions are put to it meanwhile."""

import asyncio

import pytest

from harmonia_py.catalog import outages
from harmonia_py.catalog.outages import Outages
from harmonia_py.contents.storage import NotKept
from harmonia_py.errors import StorageError

REST = outages._REST_SECONDS


class Catalog:
    """One that answers, fails, or hangs, as the test says; it counts the questions.

    `now` is the clock of what asks it.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.error: StorageError | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0

    async def question(self) -> str:
        self.asked += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
async def catalog() -> Catalog:
    return Catalog()


@pytest.fixture
async def resting(catalog: Catalog) -> Outages[Catalog]:
    """Of a catalog that has just failed, and answers again."""
    asking = Outages(catalog, clock=lambda: catalog.now)
    catalog.error = StorageError("busy")
    with pytest.raises(NotKept):
        await asking.ask(Catalog.question)
    catalog.error, catalog.asked = None, 0
    return asking


async def test_a_catalog_that_failed_is_not_asked_for_a_while(catalog: Catalog, resting: Outages[Catalog]) -> None:
    with pytest.raises(NotKept):
        await resting.ask(Catalog.question)
    assert catalog.asked == 0
    catalog.now += REST
    assert await resting.ask(Catalog.question) == "answer"


async def test_a_question_that_insists_and_is_answered_ends_the_rest(
    catalog: Catalog, resting: Outages[Catalog]
) -> None:
    assert await resting.ask(Catalog.question, insists=True) == "answer"
    assert await resting.ask(Catalog.question) == "answer"


@pytest.mark.parametrize("ending", ["error", "timeout"])
async def test_a_question_that_insists_in_vain_does_not_make_the_rest_longer(
    catalog: Catalog, resting: Outages[Catalog], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Each NAR that a mirror fetched began the ten seconds again: with one every few seconds they never ended."""
    monkeypatch.setattr(outages, "_INSISTING_SECONDS", 0.01)
    catalog.now += REST - 1
    if ending == "timeout":
        catalog.answers.clear()
    else:
        catalog.error = StorageError("busy")
    with pytest.raises(NotKept):
        await resting.ask(Catalog.question, insists=True)
    catalog.error = None
    catalog.answers.set()
    catalog.now += 1
    assert await resting.ask(Catalog.question) == "answer"


async def test_of_questions_that_insist_at_once_those_behind_one_that_failed_are_not_asked(
    catalog: Catalog, resting: Outages[Catalog]
) -> None:
    catalog.error = StorageError("busy")
    catalog.answers.clear()
    insisting = [asyncio.create_task(resting.ask(Catalog.question, insists=True)) for _ in range(3)]
    await asyncio.sleep(0)
    catalog.answers.set()
    results = await asyncio.gather(*insisting, return_exceptions=True)
    assert [type(result) for result in results] == [NotKept] * 3
    assert catalog.asked == 1
    catalog.error = None
    assert await resting.ask(Catalog.question, insists=True) == "answer", "the next one is"
