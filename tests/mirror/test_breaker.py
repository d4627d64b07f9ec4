"""The circuit breaker, with times that the test makes up, and with several that share one state."""

import mmap
import os
import signal
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from harmonia_py.metrics.shared import Numbers, SharedNumbers
from harmonia_py.mirror.breaker import (
    CLOSED,
    FAILURES,
    OPEN_SECONDS,
    Breaker,
    BreakerState,
    Permit,
    abandoned,
    admit,
    failed,
    is_open,
)

SECONDS = 2.0


def opened(now: float) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admit(now, SECONDS)
        breaker.failed(now)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = opened(100.0)
    assert breaker.is_open(100.0)
    assert not breaker.admit(100.0 + OPEN_SECONDS - 1, SECONDS)


def test_a_success_in_between_begins_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
        breaker.succeeded()
    assert not breaker.is_open(0.0)


def test_after_its_time_one_question_is_let_through_and_decides() -> None:
    later = 100.0 + OPEN_SECONDS
    breaker = opened(100.0)
    assert breaker.admit(later, SECONDS)
    assert not breaker.admit(later, SECONDS)
    assert breaker.is_open(later)
    breaker.failed(later)
    assert not breaker.admit(later + OPEN_SECONDS - 1, SECONDS)
    assert breaker.admit(later + OPEN_SECONDS, SECONDS)
    breaker.succeeded()
    assert not breaker.is_open(later + OPEN_SECONDS)
    assert breaker.admit(later + OPEN_SECONDS, SECONDS)


def test_a_probe_that_nobody_waits_for_any_more_lets_another_one_through() -> None:
    later = 100.0 + OPEN_SECONDS
    breaker = opened(100.0)
    probe = breaker.admit(later, SECONDS)
    assert probe is not None
    breaker.abandoned(Permit())  # another question, which was asked before
    assert not breaker.admit(later, SECONDS)
    breaker.abandoned(probe)
    assert breaker.admit(later, SECONDS)


def test_a_probe_of_which_nothing_is_heard_holds_nobody_up_for_longer_than_it_may_take() -> None:
    later = 100.0 + OPEN_SECONDS
    breaker = opened(100.0)
    assert breaker.admit(later, SECONDS)
    assert not breaker.admit(later + SECONDS, SECONDS)
    assert breaker.admit(later + SECONDS + 2, SECONDS)
    assert not breaker.admit(later + SECONDS + 2, SECONDS)


def test_questions_that_were_asked_before_it_opened_do_not_keep_it_open_for_longer() -> None:
    breaker = opened(100.0)
    breaker.failed(130.0)
    assert breaker.admit(100.0 + OPEN_SECONDS, SECONDS)


def test_who_asks_for_rest_gets_it_but_no_more_than_a_minute() -> None:
    breaker = Breaker()
    breaker.failed(0.0, rest=5.0)
    assert not breaker.admit(4.0, SECONDS)
    assert breaker.admit(5.0, SECONDS)
    breaker.failed(5.0, rest=86_400.0)
    assert breaker.admit(5.0 + OPEN_SECONDS, SECONDS)


states = st.builds(BreakerState, st.integers(0, FAILURES), st.floats(0, 1000), st.floats(0, 1000))


@given(states, st.floats(0, 1000))
def test_it_is_never_shut_for_good(state: BreakerState, now: float) -> None:
    latest = max(now, state.open_until, state.probe_until) + 1
    assert admit(state, latest, SECONDS)[1] is not None


@given(states, st.floats(0, 1000), st.none() | st.floats(0, 1e6))
def test_one_failure_shuts_it_for_no_longer_than_a_minute(state: BreakerState, now: float, rest: float | None) -> None:
    after = failed(state, now, rest)
    assert after.failures <= FAILURES
    assert after.open_until <= max(state.open_until, now + OPEN_SECONDS)
    assert is_open(after, now) or not is_open(state, now)


class SharedBreaker(RuleBasedStateMachine):
    """Three workers with one breaker, held against a model that knows everything."""

    questions: Bundle[tuple[int, Permit]] = Bundle("questions")

    def __init__(self) -> None:
        super().__init__()
        numbers = SharedNumbers()
        self.workers = [Breaker(numbers.row("http://upstream")) for _ in range(3)]
        Breaker(numbers.row("http://another")).failed(0.0, rest=60.0)
        self.now = 1000.0
        self.model = CLOSED

    @rule(seconds=st.floats(0, 2 * OPEN_SECONDS))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=questions, worker=st.integers(0, 2))
    def ask(self, worker: int) -> MultipleResults[tuple[int, Permit]]:
        permit = self.workers[worker].admit(self.now, SECONDS)
        self.model, expected = admit(self.model, self.now, SECONDS)
        assert permit == expected
        return multiple() if permit is None else multiple((worker, permit))

    @rule(question=consumes(questions), rest=st.none() | st.floats(0, 100))
    def fail(self, question: tuple[int, Permit], rest: float | None) -> None:
        self.workers[question[0]].failed(self.now, rest)
        self.model = failed(self.model, self.now, rest)

    @rule(question=consumes(questions))
    def succeed(self, question: tuple[int, Permit]) -> None:
        self.workers[question[0]].succeeded()
        self.model = CLOSED

    @rule(question=consumes(questions))
    def abandon(self, question: tuple[int, Permit]) -> None:
        self.workers[question[0]].abandoned(question[1])
        self.model = abandoned(self.model, question[1])

    @precondition(lambda self: self.model.failures >= FAILURES)
    @rule(workers=st.lists(st.integers(0, 2), min_size=2, max_size=6))
    def all_ask_at_once_when_it_is_open(self, workers: list[int]) -> None:
        permits = [self.workers[worker].admit(self.now, SECONDS) for worker in workers]
        assert sum(permit is not None for permit in permits) <= 1
        self.model, _ = admit(self.model, self.now, SECONDS)

    @invariant()
    def all_know_the_same(self) -> None:
        assert {breaker.state for breaker in self.workers} == {self.model}


TestSharedBreaker = SharedBreaker.TestCase


def in_children(count: int, work: Callable[[int], bool]) -> int:
    """How many of so many processes, which begin at once, find that it is so."""
    ready, go = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            os.read(ready, 1)
            os._exit(work(number))
        children.append(child)
    os.write(go, bytes(count))
    os.close(go)
    os.close(ready)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def test_of_many_processes_one_probes() -> None:
    numbers = SharedNumbers()
    breakers = [Breaker(numbers.row(f"{attempt}")) for attempt in range(1000)]
    for breaker in breakers:
        for _ in range(FAILURES):
            breaker.failed(100.0)
    admitted = mmap.mmap(-1, 6 * len(breakers))  # a byte for each process and breaker

    def probe(number: int) -> bool:
        for attempt, breaker in enumerate(breakers):
            admitted[attempt * 6 + number] = breaker.admit(100.0 + OPEN_SECONDS, SECONDS) is not None
        return True

    assert in_children(6, probe) == 6
    assert [sum(admitted[start : start + 6]) for start in range(0, len(admitted), 6)] == [1] * len(breakers)


def test_failures_of_many_processes_add_up() -> None:
    breaker = Breaker(SharedNumbers().row("upstream"))

    def fail_once(_: int) -> bool:
        breaker.failed(100.0)
        return True

    assert in_children(FAILURES - 1, fail_once) == FAILURES - 1
    assert not breaker.is_open(100.0)
    assert in_children(1, fail_once) == 1
    assert breaker.is_open(100.0)


def test_a_process_that_is_killed_in_the_middle_of_a_change_takes_no_lock_with_it() -> None:
    numbers = SharedNumbers()
    row = numbers.row("upstream")

    def die(_: Numbers) -> Numbers:
        os.kill(os.getpid(), signal.SIGKILL)
        return (1.0, 1.0, 1.0)

    child = os.fork()
    if child == 0:
        row.change(die)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    row.change(lambda numbers: (numbers[0] + 1, 2.0, 3.0))
    assert row.read() == (1.0, 2.0, 3.0)


def test_a_process_that_stands_still_in_the_middle_of_a_change_holds_nobody_up() -> None:
    numbers = SharedNumbers()
    breaker, row = Breaker(numbers.row("upstream")), numbers.row("another")
    for _ in range(FAILURES):
        breaker.failed(100.0)
    inside, told = os.pipe()

    def stand_still(numbers: Numbers) -> Numbers:
        os.write(told, b"+")
        signal.pause()
        return numbers

    child = os.fork()
    if child == 0:
        row.change(stand_still)
    os.read(inside, 1)
    try:
        # Nobody probes, lest two do; nothing waits.
        assert breaker.admit(100.0 + OPEN_SECONDS, SECONDS) is None
        breaker.succeeded()
        assert breaker.is_open(100.0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(inside)
        os.close(told)
    assert breaker.admit(100.0 + OPEN_SECONDS, SECONDS) is not None
