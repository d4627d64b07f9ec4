"""Memory that processes share: numbers under a lock, texts without."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.metrics import shared
from harmonia_py.metrics.shared import NUMBERS, SharedNumbers, SharedTexts, _place


def test_rows_of_one_name_are_one_row_and_others_are_not() -> None:
    numbers = SharedNumbers()
    row, same, other = numbers.row("one"), numbers.row("one"), numbers.row("two")
    row.change(lambda before: (before[0] + 1, 2.0, 3.0))
    assert row.read() == same.read() == (1.0, 2.0, 3.0)
    assert other.read() == (0.0,) * NUMBERS


def test_changes_of_many_processes_are_all_made() -> None:
    row = SharedNumbers().row("one")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(200):
                # Where processors are scarce, one may have to wait for longer than it has patience.
                while not row.change(lambda before: (before[0] + 1, 0.0, 0.0)):
                    pass
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert row.read()[0] == 800.0


def test_a_row_is_waited_for_longer_than_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a worker said at its start that it shares nothing that it learns, and held to that."""
    monkeypatch.setattr(shared, "_ROW_PATIENCE_SECONDS", 60.0)
    numbers = SharedNumbers()
    row = numbers.row("one")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with numbers._lock.held():
            os.write(writer, b"held")
            time.sleep(0.2)
        os._exit(0)
    os.read(reader, 4)
    numbers.row("two").change(lambda _: (1.0, 2.0, 3.0))
    os.waitpid(child, 0)
    assert numbers.row("two").read() == (1.0, 2.0, 3.0)
    assert row.read() == (0.0,) * NUMBERS
    for end in (reader, writer):
        os.close(end)


def test_when_there_is_no_row_left_a_process_keeps_to_itself() -> None:
    numbers = SharedNumbers()
    for number in range(1024):
        numbers.row(f"{number}").change(lambda _: (1.0, 1.0, 1.0))
    numbers.row("more").change(lambda _: (2.0, 2.0, 2.0))
    assert numbers.row("more").read() == (0.0,) * NUMBERS
    assert numbers.row("1023").read() == (1.0, 1.0, 1.0)


texts_or_none = st.none() | st.binary(max_size=100) | st.binary(min_size=4090, max_size=4100)


@given(st.lists(st.tuples(st.sampled_from("abc"), texts_or_none), max_size=10))
def test_a_text_is_the_last_that_was_put_or_nothing(steps: list[tuple[str, bytes | None]]) -> None:
    texts = SharedTexts()
    known: dict[str, bytes | None] = {}
    for name, text in steps:
        if text is None:
            texts.remove(name)
        else:
            texts.put(name, text)
        known[name] = text
        found = texts.get(name)
        assert found == text or (found is None and text is not None and len(text) > 4000)
        assert all(texts.get(other) in (None, known.get(other)) for other in "abc")


@given(st.binary(max_size=200), st.integers(0, 300), st.binary(min_size=1, max_size=100))
def test_a_text_that_is_half_another_is_not_read(text: bytes, place: int, other: bytes) -> None:
    texts = SharedTexts()
    texts.put("name", text)
    start = _place("name") + place
    texts._memory[start : start + len(other)] = other
    assert texts.get("name") in (None, text)


def test_what_one_process_puts_another_gets() -> None:
    texts = SharedTexts()
    child = os.fork()
    if child == 0:
        texts.put("name", b"text")
        os._exit(0)
    os.waitpid(child, 0)
    assert texts.get("name") == b"text"
    assert texts.get("other") is None
