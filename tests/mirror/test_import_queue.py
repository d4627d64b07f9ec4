"""The order of imports, decided without a store: a set of hash parts stands for what is valid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.mirror import import_queue
from harmonia_py.mirror.import_queue import ImportQueue
from harmonia_py.nix.store_path import HashPart

A, B, C = (HashPart(letter * 32) for letter in "abc")
PATHS = [HashPart(f"{number:032}") for number in range(12)]


@st.composite
def graphs(draw: st.DrawFn) -> dict[HashPart, set[HashPart]]:
    """What each path refers to: to itself and to those before it, so that there are no cycles."""
    return {path: draw(st.sets(st.sampled_from(PATHS[: number + 1]))) for number, path in enumerate(PATHS)}


@given(graphs(), st.permutations(PATHS), st.data())
def test_a_closure_gets_in_whatever_order_it_comes_in(
    graph: dict[HashPart, set[HashPart]], order: list[HashPart], data: st.DataObject
) -> None:
    queue, valid, now, arrived = ImportQueue(), list[HashPart](), 0.0, set[HashPart]()
    looks = 0
    for path in [*order, None]:
        if path is not None:
            arrived.add(path)
            assert queue.want(path, now)
            if data.draw(st.booleans()):
                continue  # more come before anybody looks
        while (current := queue.next(now)) is not None:
            looks += 1
            missing = graph[current] - {current} - set(valid)
            if current not in arrived:
                queue.drop()
            elif missing:
                assert queue.wait(missing, now)
                for reference in missing:
                    queue.want(reference, now)
            else:
                valid.append(current)
                queue.decide(now, 600.0, valid=True)
    assert sorted(valid) == PATHS
    assert len(queue) == 0
    # What waits is woken by what it waits for, and costs no more looks than it has references.
    assert looks <= len(PATHS) * 2 + sum(map(len, graph.values())) * 3


def test_what_came_through_another_process_is_noticed_by_looking_again() -> None:
    queue = ImportQueue()
    queue.want(A, 0.0)
    assert queue.next(0.0) == A
    assert queue.wait([B], 0.0)
    pause = queue.seconds_to_next(0.0)
    assert pause is not None
    assert 0.0 < pause <= 5.0
    assert queue.next(pause - 0.1) is None
    assert queue.next(pause) == A


def test_a_path_waits_for_ten_minutes_looked_at_ever_more_seldom_and_is_then_given_up() -> None:
    queue, now, looks = ImportQueue(), 0.0, 0
    queue.want(A, now)
    while queue.next(now) == A and queue.wait([B], now):
        looks += 1
        pause = queue.seconds_to_next(now)
        assert pause is not None
        now += pause
    assert 600.0 <= now < 700.0
    assert looks < 20
    assert len(queue) == 0
    assert not queue.want(A, now + 1)
    assert queue.want(A, now + 601)


def test_what_is_decided_is_not_looked_at_again_for_a_while() -> None:
    queue = ImportQueue()
    assert queue.want(A, 0.0)
    assert not queue.want(A, 0.0)
    assert queue.next(0.0) == A
    queue.decide(0.0, 60.0, valid=False)
    assert not queue.want(A, 59.0)
    assert queue.want(A, 60.0)


def test_what_is_wanted_while_it_is_looked_at_is_looked_at_again() -> None:
    """Its NAR may have been kept just after the look."""
    queue = ImportQueue()
    queue.want(A, 0.0)
    assert queue.next(0.0) == A
    assert queue.want(A, 0.0)
    queue.drop()
    assert queue.next(0.0) == A


def test_a_failure_wakes_nobody() -> None:
    queue = ImportQueue()
    queue.want(A, 0.0)
    assert queue.next(0.0) == A
    queue.wait([B], 0.0)
    queue.want(B, 0.0)
    assert queue.next(0.0) == B
    queue.decide(0.0, 60.0, valid=False)
    assert queue.next(0.0) is None
    assert len(queue) == 1


def test_it_takes_no_more_than_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_queue, "_MAX_PATHS", 2)
    queue = ImportQueue()
    assert queue.want(A, 0.0)
    assert queue.want(B, 0.0)
    assert not queue.want(C, 0.0)
    assert queue.next(0.0) == A
    queue.wait([C], 0.0)
    assert not queue.want(C, 0.0)
    assert len(queue) == 2
