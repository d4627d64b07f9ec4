import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_parsing import run

from harmonia_py.errors import FormatError
from harmonia_py.nix import wire
from harmonia_py.nix.wire import Parser


def test_a_string_is_its_length_its_bytes_and_zeros() -> None:
    assert wire.write_string("hello") == bytes.fromhex("0500000000000000 68656c6c6f000000")
    assert wire.write_string("") == bytes(8)
    assert len(wire.write_string("12345678")) == 16


@given(st.integers(0, 2**64 - 1))
def test_integers_round_trip(number: int) -> None:
    assert run(wire.read_u64(), wire.write_u64(number)) == number


@given(st.binary(max_size=100))
def test_bytes_round_trip_to_a_multiple_of_eight(data: bytes) -> None:
    written = wire.write_bytes(data)
    assert len(written) % 8 == 0
    assert run(wire.read_bytes(), written) == data


@given(st.lists(st.text()))
def test_lists_of_strings_round_trip(texts: list[str]) -> None:
    assert run(wire.read_strings(), wire.write_strings(texts)) == texts


@given(st.binary(max_size=3 * wire.MAX_FRAME_SIZE))
def test_frames_carry_the_data_and_are_not_padded(data: bytes) -> None:
    framed = wire.write_frames(data) + wire.END_OF_FRAMES
    assert run(_read_frames(), framed) == data


def _read_frames() -> Parser[bytes]:
    data = b""
    while size := (yield from wire.read_u64()):
        assert size <= wire.MAX_FRAME_SIZE
        data += yield size
    return data


@given(st.integers(0, 2**64 - 1))
def test_every_number_but_zero_is_true(number: int) -> None:
    assert run(wire.read_bool(), wire.write_u64(number)) == (number != 0)


@pytest.mark.parametrize(
    "reader", [wire.read_u64, wire.read_bool, wire.read_bytes, wire.read_string, wire.read_strings, wire.read_count]
)
@given(data=st.binary(max_size=64))
def test_any_bytes_parse_or_raise_format_error(reader: type[Parser[object]], data: bytes) -> None:
    with contextlib.suppress(FormatError):
        run(reader(), data)


def test_padding_that_is_not_zero_is_an_error() -> None:
    with pytest.raises(FormatError, match="padding"):
        run(wire.read_bytes(), wire.write_u64(5) + b"hello\0\0\1")


def test_a_string_that_is_not_utf8_is_an_error_only_as_text() -> None:
    written = wire.write_bytes(b"\xff")
    assert run(wire.read_bytes(), written) == b"\xff"
    with pytest.raises(FormatError, match="UTF-8"):
        run(wire.read_string(), written)


def test_a_lie_about_a_length_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="at most"):
            run(wire.read_bytes(), wire.write_u64(2**63))
        with pytest.raises(FormatError, match="at most"):
            run(wire.read_strings(), wire.write_u64(2**63))
        with pytest.raises(FormatError, match="too early"):
            run(wire.read_bytes(), wire.write_u64(wire.MAX_STRING_SIZE))
        with pytest.raises(FormatError, match="too early"):
            run(wire.read_strings(), wire.write_u64(wire.MAX_COLLECTION_SIZE))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_bytes_after_the_end_are_an_error() -> None:
    with pytest.raises(FormatError, match="follow"):
        run(wire.read_u64(), bytes(9))
