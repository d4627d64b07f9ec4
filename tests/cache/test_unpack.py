"""Files made into NARs again, in portions of any size."""

import random

import pytest
from fault_upstream import COMPRESS, package
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonia_py.cache.unpack import COMPRESSIONS, NarCheck, Unpacker
from harmonia_py.errors import FormatError

# Several streams behind each other are one file, except for brotli, which knows no such thing.
SEVERAL = sorted(COMPRESSIONS - {"br", "none"})


def unpack(compression: str, data: bytes, portion: int) -> tuple[bytes, bool]:
    unpacker = Unpacker(compression)
    parts = [data[start : start + portion] for start in range(0, len(data), portion)]
    out = b"".join(out for part in parts for out in unpacker.feed(part))
    return out, unpacker.is_whole


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
@given(data=st.binary(max_size=5000), portion=st.integers(1, 6000))
@settings(max_examples=25)
def test_what_was_compressed_comes_out_again(compression: str, data: bytes, portion: int) -> None:
    assert unpack(compression, COMPRESS[compression](data), portion) == (data, True)


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
def test_large_and_small_things_come_out_whole(compression: str) -> None:
    noise = random.Random(1).randbytes(300_000)
    for data in (bytes(9_000_000), noise * 10, noise + bytes(5_000_000) + noise):
        for portion in (1000, 64 * 1024, 10**8):
            assert unpack(compression, COMPRESS[compression](data), portion) == (data, True)


@pytest.mark.parametrize("compression", SEVERAL)
@pytest.mark.parametrize("portion", [1, 7, 10_000])
def test_several_streams_behind_each_other_are_one_file(compression: str, portion: int) -> None:
    compress = COMPRESS[compression]
    assert unpack(compression, compress(b"one") + compress(b"two"), portion) == (b"onetwo", True)


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS - {"none"}))
def test_a_file_that_ends_too_early_is_not_whole(compression: str) -> None:
    data = COMPRESS[compression](random.Random(1).randbytes(5000))
    for end in (1, 10, 2000, len(data) - 1):
        try:
            assert not unpack(compression, data[:end], 500)[1]
        except FormatError:
            continue


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
@given(data=st.binary(max_size=500))
@settings(max_examples=25)
def test_any_bytes_decompress_or_are_refused(compression: str, data: bytes) -> None:
    try:
        unpack(compression, data, 100)
    except FormatError:
        return


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS - {"none"}))
def test_a_bomb_is_left_alone_after_the_first_portion(compression: str) -> None:
    one = package(compression="none")
    check = NarCheck(one.path_info, compression, None, None)
    bomb = COMPRESS[compression](bytes(50_000_000))
    with pytest.raises(FormatError, match="longer than its NarSize"):
        check.feed(bomb)
    assert check._nar_size < 20_000_000


class TestNothingIsForgotten:
    """`feed` once was a generator: whoever did not iterate it verified nothing, and nobody noticed."""

    @pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
    def test_a_wrong_file_is_found_by_who_takes_nothing_of_it(self, compression: str) -> None:
        one, other = package(1, compression=compression), package(2, compression=compression)
        check = NarCheck(one.path_info, compression, None, None)
        check.feed(other.file)
        with pytest.raises(FormatError, match="another NarHash"):
            check.finish()

    def test_portions_that_are_not_drawn_to_their_end_are_noticed(self) -> None:
        one = package(compression="xz")
        check = NarCheck(one.path_info, "xz", None, None)
        check.portions(one.file)
        with pytest.raises(RuntimeError):
            check.finish()
        with pytest.raises(RuntimeError):
            check.feed(b"")

    def test_a_file_that_has_proved_wrong_is_never_finished(self) -> None:
        one = package(compression="none")
        check = NarCheck(one.path_info, "none", None, None)
        with pytest.raises(FormatError):
            check.feed(one.file + b"x")
        with pytest.raises(RuntimeError):
            check.finish()

    def test_the_sink_gets_the_offered_file(self) -> None:
        one = package(compression="xz")
        check = NarCheck(one.path_info, "xz", None, None, "none")
        out: list[bytes | memoryview] = []
        check.feed(one.file, out.append)
        assert (b"".join(out), check.finish()) == (one.nar, b"")
