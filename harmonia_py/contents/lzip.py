"""Files of lzip, by the decoder of LZMA that the standard library has.

Source: "File format" in the manual of lzip. A member is a header of six bytes, a stream of LZMA with an end marker, and
a trailer: CRC-32 and size of the data, size of the member.
"""

import lzma
import struct
import zlib
from typing import Final

from harmonia_py.errors import FormatError

_HEADER_BYTES: Final = 6
_MAGIC: Final = b"LZIP\x01"
_TRAILER: Final = struct.Struct("<IQQ")
_LOG_SIZES: Final = range(12, 30)


class LzipDecompressor:
    """Decompresses one member, in the form of `lzma.LZMADecompressor`.

    Args:
        max_window: bytes that the member may want to look back.

    Attributes:
        eof: whether the member has ended, and was found to be right.
        unused_data: what came behind it.
    """

    def __init__(self, max_window: int) -> None:
        self.eof = False
        self.unused_data = b""
        self._max_window = max_window
        self._inner: lzma.LZMADecompressor | None = None
        self._waiting = b""
        self._crc = self._size = self._member_size = 0

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing to be had without more data."""
        return self._inner is None or self._inner.eof or self._inner.needs_input

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """The decompressed bytes, at most so many.

        Raises:
            FormatError: no member of lzip, one that wants to look back too far, or one that is damaged.
            LZMAError: its stream does not decompress.
        """
        self._member_size += len(data)
        data, self._waiting = self._waiting + data, b""
        if self._inner is None:
            if len(data) < _HEADER_BYTES:
                self._waiting = data
                return b""
            self._inner = self._begin(data[:_HEADER_BYTES])
            data = data[_HEADER_BYTES:]
        out = b""
        if not self._inner.eof:
            out = self._inner.decompress(data, max_length)
            data = self._inner.unused_data
            self._crc, self._size = zlib.crc32(out, self._crc), self._size + len(out)
        if self._inner.eof:
            self._end(data)
        return out

    def _begin(self, header: bytes) -> lzma.LZMADecompressor:
        size = 1 << (header[5] & 31)
        size -= size // 16 * (header[5] >> 5)
        if not header.startswith(_MAGIC) or header[5] & 31 not in _LOG_SIZES:
            raise FormatError("not a member of lzip")
        if size > self._max_window:
            raise FormatError("it wants to look back too far")
        filters = [{"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": 3, "lp": 0, "pb": 2}]
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)

    def _end(self, data: bytes) -> None:
        if len(data) < _TRAILER.size:
            self._waiting = data
            return
        self.unused_data = data[_TRAILER.size :]
        trailer = _TRAILER.unpack_from(data)
        if trailer != (self._crc, self._size, self._member_size - len(self.unused_data)):
            raise FormatError("a member of lzip has another checksum or size")
        self.eof = True
