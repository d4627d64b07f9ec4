"""How much the collector does at a time: more while that is quick, less when it is slow or fails."""

from collections.abc import Iterator

import pytest

from harmonia_py.catalog.portions import FIRST_ROWS, Portions


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """When a transaction begins and ends, for each look at the clock."""
    times: list[float] = []
    monkeypatch.setattr("harmonia_py.catalog.portions.time.monotonic", lambda: times.pop(0))
    yield times
    assert not times


def do(found: Portions, rows: int) -> int:
    with found.timed() as took:
        took(rows)
    return found.size


def test_full_portions_that_are_quick_grow_up_to_four_times_as_much(seconds: list[float]) -> None:
    found = Portions(None)
    seconds += [0.0, 0.1] * 3
    assert [do(found, found.size) for _ in range(3)] == [2 * FIRST_ROWS, 4 * FIRST_ROWS, 4 * FIRST_ROWS]


def test_what_took_no_rows_says_nothing_of_how_long_they_take(seconds: list[float]) -> None:
    """Two looks that found nothing made the first portion of real work the largest."""
    found = Portions(None)
    seconds += [0.0, 0.001] * 2
    assert [do(found, 0) for _ in range(2)] == [FIRST_ROWS] * 2


def test_a_slow_one_and_one_that_fails_are_followed_by_half(seconds: list[float]) -> None:
    """One that took too long for the catalog was tried again as it was, for ever.

    On a disk that needs ten seconds for 512 rows nothing was ever collected: there were never fewer.
    """
    found = Portions(None)
    found.size = 4 * FIRST_ROWS
    seconds += [0.0, 0.6, 1.0]
    assert do(found, found.size) == 2 * FIRST_ROWS
    with pytest.raises(OSError, match="late"), found.timed():
        raise OSError("late")
    assert found.size == FIRST_ROWS
    seconds += [0.0, 9.0] * 9
    assert [do(found, found.size) for _ in range(9)][-1] == FIRST_ROWS // 16


def test_a_size_that_is_given_stays(seconds: list[float]) -> None:
    found = Portions(7)
    seconds += [0.0, 0.1, 0.0, 0.9]
    assert [do(found, 7) for _ in range(2)] == [7, 7]
