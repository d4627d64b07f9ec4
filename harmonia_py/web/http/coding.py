"""Content codings: RFC 9110, sections 8.4 and 12.5.3; zstd in HTTP is RFC 9659.

Texts of some size are coded, and NARs that are not compressed; files that are compressed already never are. A coded
answer is another representation, so it has a validator of its own, and no ranges: a client that asks for a range gets
it of the bytes as they are.
"""

import re
import sys
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.web.http.pieces import in_memory
from harmonia_py.web.http.weights import weights

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# By our preference, where the client has none. Deflate and brotli add nothing that a client of ours lacks.
CODINGS: Final = ("zstd", "gzip")
# Below this a coding saves nothing: headers are larger.
MIN_BYTES: Final = 256
# A coder that waits for a client that reads slowly holds its memory: 0.9 MiB at this level and window. Level 3 saves a
# tenth more for half the speed and four times the memory; files that are kept are made by `[zstd]`.
_ZSTD_LEVEL: Final = 1
_ZSTD_WINDOW_LOG: Final = 19
# zlib's own choice is half as fast and a hundredth better.
_GZIP_LEVEL: Final = 4
_GZIP_FORMAT: Final = zlib.MAX_WBITS | 16

# A shorter body fits into one packet as it is.
_NARINFO: Final = "text/x-nix-narinfo"
_NAR: Final = "application/x-nix-archive"
_TEXT: Final = re.compile(r"text/|application/(?:json|javascript|xml|[a-z0-9.-]+\+(?:json|xml))|image/svg\+xml")


class Coder(Protocol):
    """Codes a body: takes its bytes, and gives those of the coded one."""

    def compress(self, data: bytes, /) -> bytes:
        """Code the next bytes; the result may be empty."""

    def flush(self) -> bytes:
        """The last bytes."""


class Coding(Struct, frozen=True, kw_only=True):
    """The settings of codings for clients that accept them.

    Attributes:
        text: whether texts are coded.
        nars: whether uncompressed NARs are coded.
    """

    text: bool = True
    nars: bool = True

    def covers(self, content_type: str, size: int | None) -> bool:
        """Whether a body of this type and size (None: unknown) is coded for a client that accepts a coding."""
        if content_type == _NARINFO or (size is not None and size < MIN_BYTES):
            return False
        return self.nars if content_type == _NAR else self.text and _TEXT.match(content_type) is not None

    def coder(self, name: str) -> Coder:
        """A coder for one body; `name` is one of `CODINGS`."""
        if name == "gzip":
            return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: _ZSTD_LEVEL,
            zstd.CompressionParameter.window_log: _ZSTD_WINDOW_LOG,
        }
        return zstd.ZstdCompressor(options=options)

    def encode(self, name: str, data: bytes) -> bytes:
        """All of a body at once."""
        coder = self.coder(name)
        return coder.compress(data) + coder.flush()

    def pieces(self, name: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """A body that is coded while it is sent; closing the iterator closes `pieces`.

        It may yield empty pieces, so that the thread that sends can give way also when little comes out of the coder.
        """
        coder = self.coder(name)
        parts = in_memory(pieces)
        try:
            for part in parts:
                if isinstance(part, Pause):
                    yield part
                else:
                    yield coder.compress(part)
            yield coder.flush()
        finally:
            parts.close()


def select(accept_encoding: str) -> str | None:
    """The coding that the client likes best of those we have; None for the body as it is.

    An absent or empty header means None, and so does one that forbids everything: a body as it is serves such a client
    better than 406.
    """
    wanted = {name.removeprefix("x-"): weight for name, weight in weights(accept_encoding).items()}
    others = wanted.get("*", 0.0)
    best = max(CODINGS, key=lambda name: wanted.get(name, others))
    weight = wanted.get(best, others)
    # A client that names `identity` with a larger weight wants the body as it is.
    return best if weight > 0 and weight >= wanted.get("identity", 0.0) else None
