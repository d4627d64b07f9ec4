"""JSON from outside: what is in what is bounded, by a number of ours and not by the interpreter's."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py import json_text
from harmonia_py.errors import FormatError
from harmonia_py.json_text import MAX_DEPTH

VALUES = st.recursive(
    st.none() | st.text('[]{}"\\é'),
    lambda values: st.lists(values) | st.dictionaries(st.text('[{"\\'), values),
    max_leaves=100,
)


class Watched(bytes):
    """A text that notes how much of it is looked at at once."""

    def __init__(self, _text: bytes) -> None:
        self.pieces: list[int] = []

    def __getitem__(self, key: Any) -> Any:
        piece = super().__getitem__(key)
        self.pieces.append(len(piece))
        return piece


def depth(value: Any) -> int:
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if within is None else 1 + max(map(depth, within), default=0)


@given(VALUES)
def test_the_depth_is_that_of_the_value_whatever_its_strings_have(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    assert json_text.decode(text, most=depth(value)) == value
    if depth(value):
        with pytest.raises(FormatError):
            json_text.decode(text, most=depth(value) - 1)


@given(VALUES, st.data())
def test_the_depth_is_that_of_the_value_wherever_it_is_cut(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    text = b" " * (json_text._PIECE - data.draw(st.integers(0, len(text)), "before the cut")) + text
    assert json_text.decode(text, most=depth(value)) == value
    if depth(value):
        with pytest.raises(FormatError, match="values in one another"):
            json_text.decode(text, most=depth(value) - 1)


@pytest.mark.parametrize("backslashes", range(1, 7))
def test_a_string_that_is_cut_between_backslashes_is_one_string(backslashes: int) -> None:
    for before in range(backslashes + 3):
        string = b"\\" * (2 * backslashes) + b'\\"' + b"[" * 65
        text = b" " * (json_text._PIECE - before) + b'["' + string + b'"]'
        json_text.check_depth(text, 1)
        with pytest.raises(FormatError):
            json_text.check_depth(text, 0)


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}"), ('[{"]": ', "}]")])
def test_one_level_more_than_the_bound_is_refused(begin: str, end: str) -> None:
    """Python 3.13 took 2,500 lists in one another, of a token as well, where 3.11 refuses a thousand."""
    most = MAX_DEPTH // (begin.count("[") + begin.count("{"))
    assert json_text.decode(begin * most + "1" + end * most)
    with pytest.raises(FormatError, match="more than 64 values in one another"):
        json_text.decode(begin * (most + 1) + "1" + end * (most + 1))


def test_many_values_beside_one_another_are_not_deep() -> None:
    assert len(json_text.decode(b"[" + b",".join([b'[{"a": []}]'] * 1_000) + b"]")) == 1_000


@pytest.mark.parametrize("text", [b"", b"{", b'"\xff"', "\ud800", b"]" * 1_000, b'"' + b"[" * 1_000, b"[" * 1_000_000])
def test_what_is_no_json_is_refused(text: bytes | str) -> None:
    with pytest.raises(FormatError):
        json_text.decode(text)


def test_a_string_without_an_end_is_looked_at_once() -> None:
    """Looked for again from each of its quotes, the end of this one took a day."""
    begun = time.process_time()
    with pytest.raises(FormatError):
        json_text.decode(b"[" * 65 + b'"' + b'\\"' * 2_000_000)
    assert time.process_time() - begun < 10


def test_other_threads_have_their_turn_while_a_text_is_looked_at() -> None:
    """The depth of 16 MiB was looked at in one call, during which the event loop stood still for 1.6 s."""
    text = Watched(b'{"narinfos": [], "x": [' + b"[]," * 1_000_000 + b"[]]}")
    json_text.check_depth(text)
    assert sum(text.pieces) == len(text)
    assert max(text.pieces) <= 64 * 1024


def test_a_text_is_looked_at_no_further_than_to_what_is_too_deep() -> None:
    text = Watched(b"[" * 4_000_000)
    with pytest.raises(FormatError, match="more than 64 values in one another"):
        json_text.check_depth(text)
    assert 0 < sum(text.pieces) <= 64 * 1024


@pytest.mark.parametrize("text", [b"[" * 4_000_000, b"[]," * 1_000_000])
def test_what_is_no_json_is_refused_before_its_depth_is_looked_at(text: bytes) -> None:
    """4 MiB of `[],` cost 0.2 s, to be refused for its fourth byte."""
    watched = Watched(text)
    with pytest.raises(FormatError):
        json_text.decode(watched)
    assert not watched.pieces


def test_what_the_parser_itself_finds_too_deep_is_refused() -> None:
    text = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(FormatError, match="more than 64 values in one another"):
        json_text.decode(text)
