"""How many connections each worker has, with real processes."""

import os

from harmonia_py.metrics.board import Board
from harmonia_py.metrics.loads import Loads


def in_a_child(loads: Loads, slot: int, connections: int, *, says_that_it_ends: bool) -> None:
    pid = os.fork()
    if pid == 0:
        loads.of(slot).accepts(connections)
        if says_that_it_ends:
            loads.of(slot).ends()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_worker_has_more_connections_than_another_only_while_that_one_accepts() -> None:
    loads = Loads(3)
    ours, other = loads.of(0), loads.of(2)
    ours.accepts(2)
    assert not ours.exceeds_another(), "no other has come"
    for theirs, exceeds in ((3, False), (2, False), (1, True)):
        other.accepts(theirs)
        assert ours.exceeds_another() is exceeds
        assert other.exceeds_another() is (theirs > 2)
    other.ends()
    assert not ours.exceeds_another()


def test_what_a_worker_takes_is_known_to_the_others_alone() -> None:
    loads = Loads(3)
    ours, other = loads.of(0), loads.of(2)
    other.takes_one()
    assert (ours.taken_by_others(), other.taken_by_others()) == (1, 0)


def test_a_worker_that_was_killed_has_no_connections_to_come() -> None:
    """It has said nothing of its end, and every connection would wait a moment for it."""
    loads = Loads(2)
    loads.of(0).accepts(5)
    in_a_child(loads, 1, 0, says_that_it_ends=False)
    assert not loads.of(0).exceeds_another()


def test_workers_of_one_board_know_of_each_other_and_those_of_others_do_not() -> None:
    board, another = Board(2), Board(1)
    one, two, elsewhere = board.claim(0).load, board.claim(1).load, another.claim(0).load
    for load, connections in ((one, 2), (two, 1), (elsewhere, 0)):
        load.accepts(connections)
    assert one.exceeds_another()
    assert not two.exceeds_another()
    assert not elsewhere.exceeds_another()
