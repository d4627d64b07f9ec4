"""Chunks as frames of zstd: in a row they are a file that every zstd can read (RFC 8878, section 3)."""

import struct
import sys
from typing import Final

from harmonia_py.chunks.sizes import MAX_CHUNK_BYTES
from harmonia_py.errors import FormatError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# zstd allows no longer ones, of any kind.
_BLOCK_BYTES: Final = 128 * 1024
_BLOCK_HEADER_BYTES: Final = 3
_MAGIC: Final = (0xFD2FB528).to_bytes(4, "little")
_SINGLE_SEGMENT: Final = 1 << 5
_LAST_BLOCK: Final = 1
# A content of one byte takes one byte to say its length, from 256 on two, from 65,792 on four.
_TWO_BYTES_FROM: Final = 256
_FOUR_BYTES_FROM: Final = 256 + 2**16


def compress_chunk(data: bytes, level: int) -> bytes:
    """A frame of `data` with its size and a checksum: decompressing it finds rot of the disk."""
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: 1,
        zstd.CompressionParameter.content_size_flag: 1,
    }
    return zstd.compress(data, options=options)


def decompress_chunk(frame: bytes | memoryview, size: int) -> bytes:
    """The data that `compress_chunk` was given.

    Raises:
        FormatError: it is no frame, or not one of `size` bytes.
    """
    try:
        decompressor = zstd.ZstdDecompressor()
        data = decompressor.decompress(frame, max_length=size + 1)
        if len(data) == size and not decompressor.eof:
            data += decompressor.decompress(b"", max_length=1)
    except zstd.ZstdError as error:
        raise FormatError(f"a chunk does not decompress: {error}") from None
    if len(data) != size or not decompressor.eof or decompressor.unused_data:
        raise FormatError("a chunk has another size")
    return data


def decompress_frame(frame: bytes | memoryview) -> bytes:
    """The content of a frame whose size only its own header tells.

    Raises:
        FormatError: it is no frame of a chunk.
    """
    try:
        size = zstd.get_frame_info(frame).decompressed_size
    except zstd.ZstdError as error:
        raise FormatError(f"a chunk does not decompress: {error}") from None
    if size is None or size > MAX_CHUNK_BYTES:
        raise FormatError("a chunk does not say how long it is, or is too long")
    return decompress_chunk(frame, size)


def frame_size(data: bytes | memoryview) -> int:
    """The length of the frame that `data` begins with.

    Raises:
        FormatError: it begins with no frame, or with a part of one.
    """
    try:
        return zstd.get_frame_size(data)
    except zstd.ZstdError as error:
        raise FormatError(f"there is no whole chunk: {error}") from None


def stored_frame(data: bytes) -> bytes:
    """A frame that stores `data` uncompressed; its length depends on the length of `data` alone."""
    size = len(data)
    if size < _TWO_BYTES_FROM:
        head = struct.pack("<BB", _SINGLE_SEGMENT, size)
    elif size < _FOUR_BYTES_FROM:
        head = struct.pack("<BH", _SINGLE_SEGMENT | 1 << 6, size - _TWO_BYTES_FROM)
    else:
        head = struct.pack("<BI", _SINGLE_SEGMENT | 2 << 6, size)
    parts = [_MAGIC, head]
    for start in range(0, max(size, 1), _BLOCK_BYTES):
        block = data[start : start + _BLOCK_BYTES]
        is_last = start + _BLOCK_BYTES >= size
        parts += [((len(block) << 3) | (_LAST_BLOCK if is_last else 0)).to_bytes(_BLOCK_HEADER_BYTES, "little"), block]
    return b"".join(parts)


def stored_frame_size(size: int) -> int:
    """The length of a `stored_frame` of `size` bytes."""
    head = len(_MAGIC) + 1 + (1 if size < _TWO_BYTES_FROM else 2 if size < _FOUR_BYTES_FROM else 4)
    return head + size + _BLOCK_HEADER_BYTES * max(1, -(-size // _BLOCK_BYTES))
