"""Frames of zstd as chunks: any bytes are one, or are refused; none takes more memory than a chunk may."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zstd_library import zstd

from harmonia_py.chunks.frames import compress_chunk, decompress_chunk, decompress_frame, frame_size, stored_frame
from harmonia_py.chunks.sizes import MAX_CHUNK_BYTES
from harmonia_py.errors import FormatError


@given(st.binary(max_size=200) | st.binary(max_size=200).map(zstd.compress))
def test_any_bytes_are_a_frame_or_are_refused(data: bytes) -> None:
    for read in (decompress_frame, frame_size, lambda frame: decompress_chunk(frame, 100)):
        with suppress(FormatError):
            read(data)


@given(st.binary(max_size=200))
def test_a_frame_says_how_long_it_is_and_has_what_was_put_into_it(data: bytes) -> None:
    for frame in (compress_chunk(data, 3), stored_frame(data)):
        assert frame_size(frame + b"the next one") == len(frame)
        assert decompress_frame(frame) == decompress_chunk(frame, len(data)) == data
        for broken in (frame[:-1], frame[1:]):
            with pytest.raises(FormatError):
                frame_size(broken)
            with pytest.raises(FormatError):
                decompress_frame(broken)
        for size in (len(data) - 1, len(data) + 1):
            with pytest.raises(FormatError):
                decompress_chunk(frame, size)


def test_a_frame_that_is_too_long_or_does_not_say_is_refused_before_it_is_unpacked() -> None:
    silent = zstd.compress(b"x", options={zstd.CompressionParameter.content_size_flag: 0})
    for frame in (zstd.compress(bytes(MAX_CHUNK_BYTES + 1)), silent):
        with pytest.raises(FormatError, match="does not say how long it is, or is too long"):
            decompress_frame(frame)
