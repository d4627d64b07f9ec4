"""Questions that are answered together: those that come while others are answered share the next call.

The way to a thread and back takes longer than a look at a file, a request to a bucket longer than what is asked, and
the questions of a closure come at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, Self, TypeVar

from harmonia_py.errors import HarmoniaError, StorageError
from harmonia_py.runtime.tasks import end_task

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Answers = Sequence[Answer | HarmoniaError]


class Together(Generic[Question, Answer]):
    """Asks many questions with one call. It belongs to one event loop.

    Args:
        answer: the answers to questions, in their order; for one that cannot be answered, the error.
        most: questions of one call; None for all that there are.
    """

    def __init__(
        self, answer: Callable[[list[Question]], Awaitable[Answers[Answer]]], *, most: int | None = None
    ) -> None:
        self._answer = answer
        self._most = most
        self._questions: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._asking: asyncio.Task[None] | None = None

    @classmethod
    def in_thread(
        cls,
        answer: Callable[[list[Question]], Answers[Answer]],
        run: Callable[[Callable[[], Answers[Answer]]], Awaitable[Answers[Answer]]],
    ) -> Self:
        """One whose `answer` may block, and is called by `run` in a thread."""
        return cls(lambda questions: run(partial(answer, questions)))

    async def ask(self, question: Question) -> Answer:
        """The answer to `question`.

        Raises:
            HarmoniaError: the question cannot be answered, or the call failed.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._questions.append((question, answer))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def aclose(self) -> None:
        """Wait until every question has its answer."""
        if self._asking is not None:
            await asyncio.wait([self._asking])

    async def cancel(self) -> None:
        """End the call that is under way; each question that waits gets a `StorageError`."""
        await end_task(self._asking)
        self._give_up(self._questions)  # those of a call that had not begun

    async def _ask(self) -> None:
        while self._questions:
            await asyncio.sleep(0)  # until every task that is ready to run has put its question
            most = self._most or len(self._questions)
            questions, self._questions = self._questions[:most], self._questions[most:]
            found: Answers[Answer]
            try:
                found = await self._answer([question for question, _ in questions])
            except HarmoniaError as error:
                found = [error] * len(questions)
            except BaseException:
                # Also questions that came meanwhile: no further call is made for them.
                self._give_up([*questions, *self._questions])
                raise
            for (_, waiting), answer in zip(questions, found, strict=True):
                if waiting.done():  # its caller was cancelled
                    continue
                if isinstance(answer, HarmoniaError):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)

    def _give_up(self, questions: Sequence[tuple[Question, asyncio.Future[Answer]]]) -> None:
        self._questions = []
        for _, waiting in questions:
            if not waiting.done():  # otherwise it waits until the time of its request is over
                waiting.set_exception(StorageError("it cannot be told: what was asked beside it failed"))
