"""Encoders, which make files of NARs: no compression, xz, and zstd as it is configured.

Everything here computes and may take long, so a thread calls it; the encoders let other threads run.
"""

import lzma
import sys
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# zstd at its own level has 3.5 MiB, xz at level 0 has 3.
ENCODER_BYTES: Final = 4 * 1024 * 1024


class Encoder(Protocol):
    """Makes a file of a NAR. It gives up the interpreter's lock while it computes."""

    def compress(self, data: bytes | memoryview, /) -> bytes | memoryview:
        """Take the next bytes; the result may be empty."""

    def flush(self) -> bytes:
        """The last bytes."""


class Plain:
    """The `Encoder` of no compression."""

    def compress(self, data: bytes | memoryview, /) -> bytes | memoryview:
        """The bytes that were given."""
        return data

    def flush(self) -> bytes:
        """Nothing is left."""
        return b""


# xz is for clients that remember a URL of an upstream that has gone over to zstd: a small file is not worth nine times
# the work.
_ENCODERS: Final[dict[str, Callable[[], Encoder]]] = {
    "none": Plain,
    "xz": lambda: lzma.LZMACompressor(preset=0),
    "zstd": zstd.ZstdCompressor,
}
MADE_HERE: Final = frozenset(_ENCODERS)
"""The compressions that a file of any compression can be made into."""


def encoder(compression: str) -> Encoder:
    """Makes a file of this compression, one of `MADE_HERE`."""
    return _ENCODERS[compression]()


# Less would keep a single thread busy, and threads want buffers. Only the size of the NAR decides, so that one NAR
# always becomes the same bytes.
_THREADS_FROM_BYTES: Final = 8 * 1024 * 1024
# zstd's own choice at the levels up to this, 8 MiB, costs 60 MiB of buffers; this costs 28, and 0.7 % of the size.
_FAST_LEVEL: Final = 6
_FAST_JOB_BYTES: Final = 4 * 1024 * 1024


class Zstd(Struct, frozen=True, kw_only=True):
    """The settings of zstd.

    Attributes:
        level: -7 to 22; 3 is as fast as a fast disk and within a tenth of the size that level 9 reaches.
        threads: that compress one large NAR, besides the one that reads and verifies it; 0 for none.
        long_distance_matching: find repetitions that are further apart than the window of the level.
        window_log: the window in bytes as a power of two; None for the level's own. Nix reads up to 27.
    """

    level: int = 3
    threads: int = 1
    long_distance_matching: bool = False
    window_log: int | None = None

    def compressor(self, nar_size: int, job_bytes: int = _FAST_JOB_BYTES) -> zstd.ZstdCompressor:
        """A compressor for a NAR of this size, of which each thread takes so much at a time at the fast levels."""
        options: dict[int, int] = {zstd.CompressionParameter.compression_level: self.level}
        if nar_size >= _THREADS_FROM_BYTES:
            options[zstd.CompressionParameter.nb_workers] = self.threads
            ordinary = self.window_log is None and not self.long_distance_matching
            if self.threads and self.level <= _FAST_LEVEL and ordinary:
                options[zstd.CompressionParameter.job_size] = job_bytes
        if self.long_distance_matching:
            options[zstd.CompressionParameter.enable_long_distance_matching] = 1
        if self.window_log is not None:
            options[zstd.CompressionParameter.window_log] = self.window_log
        return zstd.ZstdCompressor(options=options)
