"""Files made into NARs again, in portions of any size."""

import lzma
import random

import pytest
from fault_upstream import COMPRESS, package
from hypothesis import given, settings
from hypothesis import strategies as st
from zstd_library import zstd

from harmonia_py.contents.codecs import COMPRESSIONS, Unpacker
from harmonia_py.contents.encoders import encoder
from harmonia_py.contents.nar_check import CheckedNar, NarBounds, NarCheck
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash

# Files of lzip, which nothing here can make, have tests of their own.
TRIED = sorted(COMPRESSIONS & COMPRESS.keys())
# Several streams behind each other are one file, except for brotli, which knows no such thing.
SEVERAL = sorted(set(TRIED) - {"br", "none"})


def unpack(compression: str, data: bytes, portion: int) -> tuple[bytes, bool]:
    unpacker = Unpacker(compression)
    parts = [data[start : start + portion] for start in range(0, len(data), portion)]
    out = b"".join(out for part in parts for out in unpacker.feed(part))
    return out, unpacker.is_whole


@pytest.mark.parametrize("compression", TRIED)
@given(data=st.binary(max_size=5000), portion=st.integers(1, 6000))
@settings(max_examples=25)
def test_what_was_compressed_comes_out_again(compression: str, data: bytes, portion: int) -> None:
    assert unpack(compression, COMPRESS[compression](data), portion) == (data, True)


@pytest.mark.parametrize("compression", TRIED)
def test_large_and_small_things_come_out_whole(compression: str) -> None:
    noise = random.Random(1).randbytes(300_000)
    for data in (bytes(9_000_000), noise * 10, noise + bytes(5_000_000) + noise):
        packed = COMPRESS[compression](data)
        for portion in (1000, 64 * 1024, 10**8):
            assert unpack(compression, packed, portion) == (data, True)


@pytest.mark.parametrize("compression", SEVERAL)
@pytest.mark.parametrize("portion", [1, 7, 10_000])
def test_several_streams_behind_each_other_are_one_file(compression: str, portion: int) -> None:
    compress = COMPRESS[compression]
    assert unpack(compression, compress(b"one") + compress(b"two"), portion) == (b"onetwo", True)


@pytest.mark.parametrize("compression", sorted(set(TRIED) - {"none"}))
def test_a_file_that_ends_too_early_is_not_whole(compression: str) -> None:
    data = COMPRESS[compression](random.Random(1).randbytes(5000))
    for end in (1, 10, 2000, len(data) - 1):
        try:
            assert not unpack(compression, data[:end], 500)[1]
        except FormatError:
            continue


@pytest.mark.parametrize("compression", TRIED)
@given(data=st.binary(max_size=500))
@settings(max_examples=25)
def test_any_bytes_decompress_or_are_refused(compression: str, data: bytes) -> None:
    try:
        unpack(compression, data, 100)
    except FormatError:
        return


@pytest.mark.parametrize("compression", sorted(set(TRIED) - {"none"}))
def test_a_bomb_is_left_alone_after_the_first_portion(compression: str) -> None:
    one = package(compression="none")
    check = NarCheck(one.path_info, compression)
    bomb = COMPRESS[compression](bytes(50_000_000))
    with pytest.raises(FormatError, match="longer than its NarSize"):
        check.feed(bomb)
    assert check._nar_size < 20_000_000


class TestNothingIsForgotten:
    """`feed` once was a generator: whoever did not iterate it verified nothing, and nobody noticed."""

    @pytest.mark.parametrize("compression", TRIED)
    def test_a_wrong_file_is_found_by_who_takes_nothing_of_it(self, compression: str) -> None:
        one, other = package(1, compression=compression), package(2, compression=compression)
        check = NarCheck(one.path_info, compression)
        check.feed(other.file)
        with pytest.raises(FormatError, match="another NarHash"):
            check.finish()

    def test_portions_that_are_not_drawn_to_their_end_are_noticed(self) -> None:
        one = package(compression="xz")
        check = NarCheck(one.path_info, "xz")
        check.portions(one.file)
        with pytest.raises(RuntimeError):
            check.finish()
        with pytest.raises(RuntimeError):
            check.feed(b"")

    def test_a_file_that_has_proved_wrong_is_never_finished(self) -> None:
        one = package(compression="none")
        check = NarCheck(one.path_info, "none")
        with pytest.raises(FormatError):
            check.feed(one.file + b"x")
        with pytest.raises(RuntimeError):
            check.finish()

    def test_the_sink_gets_the_offered_file(self) -> None:
        one = package(compression="xz")
        check = NarCheck(one.path_info, "xz", encoder=encoder("none"))
        out: list[bytes | memoryview] = []
        check.feed(one.file, out.append)
        assert (b"".join(out), check.finish()) == (one.nar, b"")


class TestWindows:
    """A header of a few bytes once took 194 MiB for each download of a hostile upstream."""

    @pytest.mark.parametrize("log", [10, 23, 27])
    def test_all_that_nix_writes_with_zstd_is_read(self, log: int) -> None:
        assert unpack("zstd", with_window(log), 100) == (b"data" * 100, True)

    @pytest.mark.parametrize("log", [28, 31])
    def test_a_larger_window_is_refused(self, log: int) -> None:
        with pytest.raises(FormatError):
            unpack("zstd", with_window(log), 100)

    def test_the_highest_preset_of_xz_is_read_and_a_larger_dictionary_is_refused(self) -> None:
        assert unpack("xz", lzma.compress(b"data", preset=9 | lzma.PRESET_EXTREME), 100) == (b"data", True)
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 256 << 20}]
        with pytest.raises(FormatError):
            unpack("xz", lzma.compress(b"data", filters=filters), 100)

    def test_the_bound_can_be_lower(self) -> None:
        one = package(compression="none")
        file = with_window(21, one.nar)
        for window, is_read in ((1 << 21, True), (1 << 20, False)):
            check = NarCheck(one.path_info, "zstd", bounds=NarBounds(window=window))
            if is_read:
                check.feed(file)
                check.finish()
            else:
                with pytest.raises(FormatError, match="zstd"):
                    check.feed(file)


def with_window(log: int, data: bytes = b"data" * 100) -> bytes:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: log,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(data) + compressor.flush()


class TestNoClaim:
    @pytest.mark.parametrize("compression", TRIED)
    def test_what_is_in_a_file_is_told_when_nothing_was_claimed(self, compression: str) -> None:
        one = package(compression=compression)
        check = NarCheck(None, compression)
        check.feed(one.file)
        check.finish()
        assert check.checked == CheckedNar(
            one.path_info.nar_hash, one.path_info.nar_size, Hash.of(one.file), len(one.file)
        )
        assert check.metadata()["nar_hash"] == str(one.path_info.nar_hash)

    def test_the_hash_that_the_url_names_counts_before_the_nar_is_known(self) -> None:
        one, other = package(1), package(2)
        check = NarCheck(None, "xz", Hash.of(other.file))
        check.feed(one.file)
        with pytest.raises(FormatError, match="FileHash"):
            check.finish()

    def test_a_bomb_that_claims_nothing_is_stopped_by_the_bound(self) -> None:
        check = NarCheck(None, "zstd", bounds=NarBounds(nar_size=1_000_000))
        with pytest.raises(FormatError, match="longer than its NarSize"):
            check.feed(COMPRESS["zstd"](bytes(50_000_000)))

    def test_more_must_not_be_claimed_than_is_taken(self) -> None:
        with pytest.raises(FormatError, match="more than is taken"):
            NarCheck(package().path_info, "xz", bounds=NarBounds(nar_size=10))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_observers_see_the_nar_in_order_and_its_end_when_all_is_right(compression: str) -> None:
    class Observer:
        def __init__(self) -> None:
            self.seen = b""
            self.finished = 0

        def update(self, data: bytes) -> None:
            self.seen += data

        def finish(self) -> None:
            self.finished += 1

    for wrong in (False, True):
        one, observers = package(size=600_000, compression=compression), [Observer(), Observer()]
        check = NarCheck(
            package(9, size=600_000).path_info if wrong else one.path_info, compression, observers=observers
        )
        for start in range(0, len(one.file), 1000):
            check.feed(memoryview(one.file)[start : start + 1000])
        if wrong:
            with pytest.raises(FormatError):
                check.finish()
        else:
            check.finish()
        assert [(observer.seen, observer.finished) for observer in observers] == [(one.nar, not wrong)] * 2
