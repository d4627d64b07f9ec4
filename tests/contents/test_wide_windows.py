"""What decompressing costs in memory: most files want little, and the few that want much take turns."""

import lzma
import random

import pytest
from zstd_library import zstd

from harmonia_py.contents.codecs import Unpacker
from harmonia_py.contents.memory import UNPACKING
from harmonia_py.errors import FormatError, Overloaded

DATA = random.Random(1).randbytes(300_000)


def wide_zstd() -> bytes:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    return compressor.compress(DATA) + compressor.flush()  # without its size in the header, so the window counts


def wide_xz() -> bytes:
    return lzma.compress(DATA, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26, "preset": 0}])


WIDE = {"zstd": wide_zstd, "xz": wide_xz}


def unpack(unpacker: Unpacker, data: bytes) -> bytes:
    return b"".join(bytes(part) for part in unpacker.feed(data))


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
@pytest.mark.parametrize("compression", WIDE)
def test_a_wide_window_is_had_in_portions_of_any_size(compression: str, step: int) -> None:
    packed = WIDE[compression]() * 2
    unpacker = Unpacker(compression)
    out = b"".join(unpack(unpacker, packed[start : start + step]) for start in range(0, len(packed), step))
    assert out == DATA * 2
    assert unpacker.is_whole


@pytest.mark.parametrize("compression", WIDE)
def test_only_a_few_have_wide_windows_at_the_same_time(compression: str) -> None:
    """Each download could want 128 MiB, so thirty-two of a hostile upstream took four gigabytes of a worker."""
    packed = WIDE[compression]()
    running = [Unpacker(compression)]
    unpack(running[0], packed[:1000])
    late = Unpacker(compression)
    with pytest.raises(Overloaded):
        unpack(late, packed)
    usual = lzma.compress(DATA) if compression == "xz" else zstd.compress(DATA)
    assert unpack(Unpacker(compression), usual) == DATA
    assert len(unpack(running[0], packed[1000:])) > 0
    assert running[0].is_whole
    assert unpack(late, b"") == DATA  # what it was fed, in the memory of the one that has ended
    assert late.is_whole
    unpack(running[0], packed[:1000])
    del running
    assert unpack(Unpacker(compression), packed) == DATA
    assert UNPACKING.taken == 0


def test_garbage_takes_no_turn_for_good() -> None:
    for _ in range(3):
        with pytest.raises(FormatError):
            unpack(Unpacker("zstd"), b"no zstd at all")
    assert unpack(Unpacker("zstd"), wide_zstd()) == DATA
