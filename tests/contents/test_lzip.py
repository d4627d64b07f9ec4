"""Files of lzip as Nix makes them, and as an upstream may send them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from harmonia_py.contents.codecs import Unpacker
from harmonia_py.errors import FormatError


def unpack(data: bytes, step: int, max_window: int = 1 << 27) -> bytes | None:
    """All that is in `data`, fed in portions; None when it ends too early."""
    unpacker = Unpacker("lzip", max_window)
    out = [bytes(part) for start in range(0, len(data), step) for part in unpacker.feed(data[start : start + step])]
    return b"".join(out) if unpacker.is_whole else None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A NAR and its file, as Nix makes it."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        file = lab.root / "file"
        file.write_bytes(b"".join(str(number).encode() for number in range(40_000)))
        path = lab.add(file)
        lab.nix("copy", "--to", f"file://{lab.root}/cache?compression=lzip", lab.full(path))
        (packed,) = (lab.root / "cache" / "nar").iterdir()
        return lab.dump(path), packed.read_bytes()


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_what_nix_compresses_is_read_in_portions_of_any_size(made: tuple[bytes, bytes], step: int) -> None:
    nar, packed = made
    assert unpack(packed, step) == nar
    assert unpack(packed * 2, step) == nar * 2


def test_half_a_file_is_not_whole(made: tuple[bytes, bytes]) -> None:
    _, packed = made
    for end in (3, 100, len(packed) - 20, len(packed) - 1):
        assert unpack(packed[:end], 64) is None


@pytest.mark.parametrize("place", [0, 4, 5, 40, -1, -9, -18])
def test_a_damaged_file_is_refused(made: tuple[bytes, bytes], place: int) -> None:
    damaged = bytearray(made[1])
    damaged[place] ^= 0x10
    with pytest.raises(FormatError):
        unpack(bytes(damaged), 64)


def test_a_window_beyond_the_limit_is_refused(made: tuple[bytes, bytes]) -> None:
    with pytest.raises(FormatError):
        unpack(made[1], 64, max_window=4096)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_read_or_refused(data: bytes, step: int) -> None:
    with contextlib.suppress(FormatError):
        unpack(b"LZIP\x01\x14" + data, step)
