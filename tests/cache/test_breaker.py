"""The circuit breaker, with times that the test makes up."""

from harmonia_py.cache.breaker import FAILURES, OPEN_SECONDS, Breaker


def opened(now: float) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admit(now)
        breaker.failed(now)
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker = opened(100.0)
    assert breaker.is_open(100.0)
    assert not breaker.admit(100.0 + OPEN_SECONDS - 1)


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
    assert breaker.admit(later)
    assert not breaker.admit(later)
    assert breaker.is_open(later)
    breaker.failed(later)
    assert not breaker.admit(later + OPEN_SECONDS - 1)
    assert breaker.admit(later + OPEN_SECONDS)
    breaker.succeeded()
    assert not breaker.is_open(later + OPEN_SECONDS)
    assert breaker.admit(later + OPEN_SECONDS)


def test_a_probe_that_nobody_waits_for_any_more_lets_another_one_through() -> None:
    later = 100.0 + OPEN_SECONDS
    breaker = opened(100.0)
    assert breaker.admit(later)
    breaker.abandoned()
    assert breaker.admit(later)


def test_who_asks_for_rest_gets_it_but_no_more_than_a_minute() -> None:
    breaker = Breaker()
    breaker.failed(0.0, rest=5.0)
    assert not breaker.admit(4.0)
    assert breaker.admit(5.0)
    breaker.failed(5.0, rest=86_400.0)
    assert breaker.admit(5.0 + OPEN_SECONDS)
