"""Memory with a bound, and what is true for a while."""

from harmonia_py.runtime.bounded import Bounded, TimedSet


def test_what_was_put_in_longest_ago_goes_first() -> None:
    kept: Bounded[str, int] = Bounded(3)
    for number, key in enumerate("abcadd"):
        kept[key] = number
    assert list(kept.items()) == [("c", 2), ("a", 3), ("d", 5)]


def test_what_is_true_for_a_while_is_true_no_longer() -> None:
    now = 0.0
    absent: TimedSet[str] = TimedSet(2, lambda: now)
    absent.add("a", 10.0)
    now = 9.0
    assert absent.holds("a")
    assert not absent.holds("b")
    now = 10.0
    assert not absent.holds("a")
    absent.add("a", 10.0)
    assert absent.holds("a")


def test_more_keys_than_there_is_room_for_push_out_the_oldest() -> None:
    absent: TimedSet[int] = TimedSet(100, lambda: 0.0)
    for number in range(10_000):
        absent.add(number, 1.0)
    assert len(absent) == 100
    assert absent.holds(9_999)
    assert not absent.holds(9_899)
