"""Memory with a bound, and what is true for a while."""

from harmonia_py.runtime.bounded import Bounded, BoundedBytes, TimedSet


def test_what_was_put_in_longest_ago_goes_first() -> None:
    kept: Bounded[str, int] = Bounded(3)
    for number, key in enumerate("abcadd"):
        kept[key] = number
    assert list(kept.items()) == [("c", 2), ("a", 3), ("d", 5)]


def test_the_value_used_least_recently_goes_first_when_all_take_too_many_bytes() -> None:
    kept: BoundedBytes[str, bytes] = BoundedBytes(10, len)
    kept.put("a", b"1234")
    kept.put("b", b"1234")
    assert kept.get("a") == b"1234"
    kept.put("c", b"1234")
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (b"1234", None, b"1234")
    kept.put("a", b"1")
    assert kept.bytes == 5


def test_a_value_larger_than_the_room_drives_out_only_the_one_before_it() -> None:
    kept: BoundedBytes[str, bytes] = BoundedBytes(4, len)
    kept.put("a", b"12")
    kept.put("b", b"12")
    kept.put("b", b"12345")
    assert (kept.get("a"), kept.get("b"), kept.bytes) == (b"12", None, 2)
    kept.drop("a")
    kept.drop("never there")
    assert kept.bytes == 0


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
