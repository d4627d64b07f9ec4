"""Content codings: RFC 9110, sections 8.4 and 12.5.3; zstd in HTTP is RFC 9659.

What is coded: text of some size, and NARs that are not compressed; never what is a compressed file already. A coded
answer is another representation, so it has a validator of its own, and no ranges: whoever asks for a range gets it of
the bytes as they are.
"""

import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.web.pieces import in_memory

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# By our preference, where the client has none. Deflate and brotli add nothing that a client of ours lacks.
CODINGS: Final = ("zstd", "gzip")
# Below this a coding saves nothing: headers are larger.
MIN_BYTES: Final = 256
# RFC 9659: a decoder need not take a larger window, and browsers do not.
_MAX_WINDOW_LOG: Final = 23
# The levels whose own windows are larger begin here.
_WIDE_LEVEL: Final = 20
# zlib's own choice is half as fast and a hundredth better.
_GZIP_LEVEL: Final = 4
_GZIP_FORMAT: Final = zlib.MAX_WBITS | 16

_NAR: Final = "application/x-nix-archive"
_TEXT: Final = re.compile(r"text/|application/(?:json|javascript|xml|[a-z0-9.-]+\+(?:json|xml))|image/svg\+xml")
# A weight has three digits at most; what is not one makes its element worthless.
_ELEMENT: Final = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9a-z-]+)\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?", re.ASCII | re.IGNORECASE
)
# Nobody has so many; a header of commas is work for nothing.
_MAX_ELEMENTS: Final = 32


class Coder(Protocol):
    """Takes the bytes of a body and gives those of its coding."""

    def compress(self, data: bytes, /) -> bytes:
        """Code the next bytes; the result may be empty."""

    def flush(self) -> bytes:
        """The last bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """What is coded for clients that accept it, and how.

    Attributes:
        text: whether texts are.
        nars: whether NARs are that are not compressed.
        level, long_distance_matching, window_log: of zstd, as for files; windows are bounded by what clients take.
    """

    text: bool = True
    nars: bool = True
    level: int = 3
    long_distance_matching: bool = False
    window_log: int | None = None

    def covers(self, content_type: str, size: int | None) -> bool:
        """Whether a body of this type and size, None for unknown, is coded for who accepts it."""
        if size is not None and size < MIN_BYTES:
            return False
        return self.nars if content_type == _NAR else self.text and _TEXT.match(content_type) is not None

    def coder(self, name: str) -> Coder:
        """A coder for one body; `name` is one of `CODINGS`."""
        if name == "gzip":
            return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
        options: dict[int, int] = {zstd.CompressionParameter.compression_level: self.level}
        if self.long_distance_matching:
            options[zstd.CompressionParameter.enable_long_distance_matching] = 1
        if self.window_log is not None or self.long_distance_matching or self.level >= _WIDE_LEVEL:
            options[zstd.CompressionParameter.window_log] = min(self.window_log or _MAX_WINDOW_LOG, _MAX_WINDOW_LOG)
        return zstd.ZstdCompressor(options=options)

    def encode(self, name: str, data: bytes) -> bytes:
        """All of a body at once."""
        coder = self.coder(name)
        return coder.compress(data) + coder.flush()

    def pieces(self, name: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """A body that is made while it is sent; closing this closes `pieces`."""
        coder = self.coder(name)
        parts = in_memory(pieces)
        try:
            for part in parts:
                if isinstance(part, Pause):
                    yield part
                elif coded := coder.compress(part):
                    yield coded
            yield coder.flush()
        finally:
            parts.close()


def select(accept_encoding: str) -> str | None:
    """The coding that the client likes best of those we have; None for the body as it is.

    An absent or empty header means None, and so does one that forbids everything: a body as it is serves such a client
    better than 406.
    """
    weights: dict[str, float] = {}
    for element in accept_encoding.lower().split(",")[:_MAX_ELEMENTS]:
        match = _ELEMENT.fullmatch(element)
        if match is not None:
            weights[match[1].removeprefix("x-")] = min(float(match[2] or 1), 1.0)
    others = weights.get("*", 0.0)
    best = max(CODINGS, key=lambda name: weights.get(name, others))
    weight = weights.get(best, others)
    # Who names `identity` with a larger weight wants the body as it is.
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None
