"""How long a server wants not to be asked again: what it may write, and what it says then."""

import email.utils
import time

import pytest

from harmonia_py.runtime.retry_after import seconds_until


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("120", 120.0), ("999999999999", 999_999.0)])
def test_seconds_are_taken_as_they_are_and_never_as_more_than_eleven_days(text: str, seconds: float) -> None:
    assert seconds_until(text) == seconds


def test_a_date_is_so_far_away() -> None:
    seconds = seconds_until(email.utils.formatdate(time.time() + 3600, usegmt=True))
    assert seconds is not None
    assert 3000 < seconds <= 3600


def test_a_date_that_has_passed_is_now() -> None:
    assert seconds_until("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "Wed, 99 Foo 2015 07:28:00 GMT"])
def test_what_is_neither_says_nothing(text: str) -> None:
    assert seconds_until(text) is None
