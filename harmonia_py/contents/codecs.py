"""The compressions of Nix, read in bounded memory; those that are written here are in `encoders`.

Source: `src/libutil/compression.cc` of Nix. Everything here computes and may take long, so a thread calls it; the
decompressors let other threads run.
"""

import bz2
import lzma
import sys
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import brotli

from harmonia_py.contents.lzip import LzipDecompressor
from harmonia_py.contents.memory import UNPACKING, MemoryFull, Share
from harmonia_py.errors import FormatError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Larger blocks would each be mapped afresh by the allocator, which takes a third longer than decompressing alone.
_OUTPUT_BYTES: Final = 256 * 1024
# The window that Nix writes at its highest level, with zstd; brotli and bzip2 have less. A header may ask for 4 GiB.
MAX_WINDOW_BYTES: Final = 128 * 1024 * 1024
# What the usual levels want: `xz -6` and zstd up to level 19. Streams that want more have a share of the memory of the
# worker: an upstream that asked for the largest windows in every download would otherwise take gigabytes.
USUAL_WINDOW_BYTES: Final = 8 * 1024 * 1024
# The header of a stream, which tells its window, is in its first portion, or in the first few.
_HEAD_BYTES: Final = 64 * 1024
# More than any header has.
_FIRST_BYTES: Final = 1024
# Besides the window: portions on their way in and out, tables, what the framework has read ahead.
_BUFFER_BYTES: Final = 1024 * 1024
# Bytes that xz needs beside its window; `xz -9` has one of 64 MiB.
_XZ_MEMORY_BYTES: Final = 8 * 1024 * 1024


class _Decompressor(Protocol):
    """The common interface of the decompressors of `lzma`, `bz2` and `zstd`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """`zlib` in the same form."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # All input may be taken, and some output still be inside.
        self._full = len(out) == max_length
        return out


class _Brotli:
    """Brotli in the same form. What is behind its end is an error."""

    unused_data = b""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._inner.is_finished())

    @property
    def needs_input(self) -> bool:
        return bool(self._inner.can_accept_more_data()) and not self._full

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out: bytes = self._inner.process(data, output_buffer_limit=max_length)
        self._full = len(out) >= max_length
        return out


def _zstd(window: int) -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window.bit_length() - 1})


_DECOMPRESSORS: Final[dict[str, Callable[[int], _Decompressor]]] = {
    "xz": lambda window: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=window + _XZ_MEMORY_BYTES),
    "zstd": _zstd,
    "bzip2": lambda _: bz2.BZ2Decompressor(),
    "gzip": lambda _: _Gzip(),
    "br": lambda _: _Brotli(),
    "lzip": LzipDecompressor,
}
COMPRESSIONS: Final = frozenset({"none", *_DECOMPRESSORS})


# The windows that need no header to be known; those of all others are as wide as they may be.
_WINDOWS: Final = {"none": 0, "gzip": 32 * 1024, "bzip2": 4 * 1024 * 1024, "br": 16 * 1024 * 1024}


def memory_of(compression: str, longest: int | None, window: int = USUAL_WINDOW_BYTES) -> int:
    """Bytes that decompressing takes at most.

    Args:
        compression: one of `COMPRESSIONS`.
        longest: bytes that come out at most, if known: no larger window is used.
        window: bytes that a stream may want to look back, where its compression leaves that open.
    """
    window = _WINDOWS.get(compression, window)
    return _BUFFER_BYTES + (window if longest is None else min(window, longest))


_ERRORS: Final = (lzma.LZMAError, zstd.ZstdError, OSError, zlib.error, brotli.error, EOFError, ValueError, MemoryError)


class Unpacker:
    """Decompresses what arrives in portions, of one or several streams behind each other.

    Args:
        compression: one of `COMPRESSIONS`.
        max_window: bytes that a stream may want to look back; those that want more are refused.
        usual_window: bytes that it may look back without a share of the memory.
        longest: bytes that come out at most, if known.
        share: of the memory, which grows for a wide window and is not closed here; None for one of its own.
    """

    def __init__(
        self,
        compression: str,
        max_window: int = MAX_WINDOW_BYTES,
        usual_window: int = USUAL_WINDOW_BYTES,
        *,
        longest: int | None = None,
        share: Share | None = None,
    ) -> None:
        self._make = _DECOMPRESSORS.get(compression)
        self._max_window = max_window
        self._usual_window = min(usual_window, max_window)
        self._current = None if self._make is None else self._make(self._usual_window)
        self.compression = compression
        self._started = False
        # The bytes of the present stream until something has come out: it may have to begin anew with a wide window.
        self._head: bytes | None = b""
        self._is_wide = False
        self._wide_bytes = memory_of(compression, longest, max_window)
        # Bytes that were fed when the memory was full.
        self._waiting = b""
        self._share = UNPACKING.share() if share is None else share
        # The share keeps the bytes that it has besides a usual window, for instance for an encoder.
        self._wide_bytes += max(0, self._share.size - memory_of(compression, longest, self._usual_window))
        self._close = None if share is not None else weakref.finalize(self, self._share.close)

    def admit(self, data: bytes | memoryview) -> None:
        """Look at the first bytes of a file, which are not taken by that.

        Raises:
            MemoryFull: its first stream wants a wide window.
        """
        if self._make is None or self._max_window <= self._usual_window:
            return
        try:
            self._make(self._usual_window).decompress(bytes(data[:_FIRST_BYTES]), 1)
        except (*_ERRORS, FormatError):
            self._grow()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """The decompressed bytes, a little at a time. A caller that has enough stops drawing.

        Raises:
            FormatError: this is not what it should be.
            MemoryFull: it wants a wide window. The fed bytes are taken: feed none when there is memory.
        """
        if self._make is None or self._current is None:
            yield data
            return
        data, self._waiting = self._waiting + bytes(data), b""
        try:
            yield from self._decompressed(data)
        except _ERRORS as error:
            self._give_back()
            raise FormatError(f"it is no whole {self.compression} file: {error}") from None

    def _decompressed(self, data: bytes) -> Iterator[bytes]:
        assert self._make is not None
        assert self._current is not None
        while data or (self._started and not self._current.needs_input):
            if not self._started:
                # Streams of xz may have zeros between them; no stream begins with one.
                data = data.lstrip(b"\0")
                if not data:
                    return
            out = self._next(data)
            self._started, data = True, b""
            if self._current.eof:
                data, self._started, self._head = self._current.unused_data, False, b""
                self._give_back()
                self._current = self._make(self._usual_window)
            if out:
                yield out

    def _next(self, data: bytes) -> bytes:
        """The first decompressed bytes, with a window as wide as they need."""
        assert self._make is not None
        assert self._current is not None
        try:
            out = self._current.decompress(data, _OUTPUT_BYTES)
        except (*_ERRORS, FormatError):
            if self._head is None or self._is_wide or self._max_window <= self._usual_window:
                raise
            data = self._head + data
            # The one that has failed is not to hold a window while it waits.
            self._head, self._current = b"", self._make(self._usual_window)
            try:
                self._grow()
            except MemoryFull:
                self._started, self._waiting = False, data
                raise
            self._is_wide = True
            self._current = self._make(self._max_window)
            out = self._current.decompress(data, _OUTPUT_BYTES)
        if self._head is not None:
            self._head = None if out or len(self._head) > _HEAD_BYTES else self._head + data
        return out

    def _grow(self) -> None:
        if not self._share.try_grow(self._wide_bytes):
            raise MemoryFull(self._share, self._wide_bytes)

    def _give_back(self) -> None:
        self._is_wide = False
        if self._close is not None:
            self._share.close()

    @property
    def is_whole(self) -> bool:
        """Whether the bytes that were fed so far end where a stream ends."""
        return not self._started
