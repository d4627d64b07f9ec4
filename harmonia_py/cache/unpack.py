"""Files as upstreams offer them, made into NARs again and verified on the way, in bounded memory.

Source: `src/libutil/compression.cc` of Nix. Decompression stops at the NarSize: a few bytes can stand for a disk full
of zeros. Everything here computes and may take long, so a thread calls it; the decompressors let other threads run.
"""

import bz2
import hashlib
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import brotli

from harmonia_py.cache.file_check import FileCheck
from harmonia_py.errors import FormatError
from harmonia_py.nix.content_check import content_check
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Larger blocks would each be mapped afresh by the allocator, which takes a third longer than decompressing alone.
_OUTPUT_BYTES: Final = 256 * 1024
# Zeros between streams, streams of nothing, frames to be skipped: they may go on for ever, and are no NAR.
_PADDING_BYTES: Final = 1024 * 1024
# `xz -9` wants 65 MiB to decompress. A header may ask for 4 GiB.
_XZ_MEMORY_BYTES: Final = 256 * 1024 * 1024


def _longest(nar_size: int) -> int:
    """What a file of a NAR may take: what cannot be compressed grows by a hundredth, and the rest is padding."""
    return nar_size + nar_size // 4 + _PADDING_BYTES


class _Decompressor(Protocol):
    """What `lzma`, `bz2` and `zstd` have in common."""

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


_DECOMPRESSORS: Final[dict[str, Callable[[], _Decompressor]]] = {
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_XZ_MEMORY_BYTES),
    "zstd": zstd.ZstdDecompressor,
    "bzip2": bz2.BZ2Decompressor,
    "gzip": _Gzip,
    "br": _Brotli,
}
COMPRESSIONS: Final = frozenset({"none", *_DECOMPRESSORS})


class _Compressor(Protocol):
    """What `lzma` and `zstd` have in common."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


# xz is for who remembers a URL of an upstream that has gone over to zstd. Small is not worth nine times as long.
_COMPRESSORS: Final[dict[str, Callable[[], _Compressor]]] = {
    "xz": lambda: lzma.LZMACompressor(preset=0),
    "zstd": zstd.ZstdCompressor,
}
MADE_HERE: Final = frozenset({"none", *_COMPRESSORS})
"""What a file of any compression can become."""

_ERRORS: Final = (lzma.LZMAError, zstd.ZstdError, OSError, zlib.error, brotli.error, EOFError, ValueError, MemoryError)


class Unpacker:
    """Decompresses what arrives in portions, of one or several streams behind each other.

    Args:
        compression: one of `COMPRESSIONS`.
    """

    def __init__(self, compression: str) -> None:
        self._make = _DECOMPRESSORS.get(compression)
        self._current = None if self._make is None else self._make()
        self._started = False

    def feed(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """What comes out, a little at a time. Whoever has enough stops asking.

        Raises:
            FormatError: this is not what it should be.
        """
        if self._make is None or self._current is None:
            yield data
            return
        try:
            yield from self._decompressed(bytes(data))
        except _ERRORS as error:
            raise FormatError(f"it does not decompress: {error}") from None

    def _decompressed(self, data: bytes) -> Iterator[bytes]:
        assert self._make is not None
        assert self._current is not None
        while data or (self._started and not self._current.needs_input):
            if not self._started:
                # Streams of xz may have zeros between them; no stream begins with one.
                data = data.lstrip(b"\0")
                if not data:
                    return
            out = self._current.decompress(data, _OUTPUT_BYTES)
            self._started, data = True, b""
            if self._current.eof:
                data, self._current, self._started = self._current.unused_data, self._make(), False
            if out:
                yield out

    @property
    def is_whole(self) -> bool:
        """Whether what was fed so far ends where a stream ends."""
        return not self._started


class NarCheck(FileCheck):
    """The check of a NAR's file.

    Args:
        path_info: has the NarHash and NarSize that count, and perhaps a content address, which counts as well.
        compression: of the file that comes.
        file_hash: of that file, when it is known.
        file_size: the same.
        offered: the compression of the file that is given: that of the file that comes, or one of `MADE_HERE`.
    """

    def __init__(
        self,
        path_info: PathInfo,
        compression: str,
        file_hash: Hash | None,
        file_size: int | None,
        offered: str | None = None,
    ) -> None:
        super().__init__()
        self._path_info = path_info
        self._contents = content_check(path_info)
        self._unpacker = Unpacker(compression)
        self._expected_hash = file_hash
        self._expected_size = file_size
        self._size = 0
        # An upstream may have named its file's hash by another algorithm.
        self._digest = hashlib.new("sha256" if file_hash is None else file_hash.algorithm, usedforsecurity=False)
        self._nar_size = 0
        self._out_size = 0
        self._as_it_comes = offered in (None, compression)
        make = None if offered is None or self._as_it_comes else _COMPRESSORS.get(offered)
        self._compressor = None if make is None else make()
        # Hashing takes most of the time. What is the same bytes is hashed once.
        is_sha256 = self._digest.name == "sha256"
        self._nar_digest = self._digest if is_sha256 and compression == "none" else hashlib.sha256()
        self._out_digest = hashlib.sha256()
        if self._as_it_comes and is_sha256:
            self._out_digest = self._digest
        elif offered == "none":
            self._out_digest = self._nar_digest

    def _portions(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        if self._as_it_comes:
            # First, so that nobody waits for the computing.
            self._count_out(data)
            yield data
        self._size += len(data)
        if self._expected_size is not None and self._size > self._expected_size:
            raise FormatError("it is longer than its FileSize")
        if self._size > _longest(self._path_info.nar_size):
            raise FormatError("it is far longer than its NAR")
        self._digest.update(data)
        for portion in self._unpacker.feed(data):
            self._nar_size += len(portion)
            if self._nar_size > self._path_info.nar_size:
                raise FormatError("its NAR is longer than its NarSize")
            if self._nar_digest is not self._digest:
                self._nar_digest.update(portion)
            if self._contents is not None:
                self._contents.update(bytes(portion))
            if not self._as_it_comes:
                out = portion if self._compressor is None else self._compressor.compress(portion)
                self._count_out(out)
                yield out

    def _last(self) -> bytes:
        if self._expected_size not in (None, self._size):
            raise FormatError("it is shorter than its FileSize")
        if self._expected_hash is not None and self._expected_hash.digest != self._digest.digest():
            raise FormatError("it has another FileHash")
        if not self._unpacker.is_whole or self._nar_size != self._path_info.nar_size:
            raise FormatError("its NAR is shorter than its NarSize")
        if self._nar_digest.digest() != self._path_info.nar_hash.digest:
            raise FormatError("its NAR has another NarHash")
        if self._contents is not None:
            self._contents.finish()
        last = b"" if self._compressor is None else self._compressor.flush()
        self._count_out(last)
        return last

    def metadata(self) -> dict[str, str]:
        """What is kept with the offered file, and what `verify` holds it against later."""
        address = {} if self._contents is None else {"ca": str(self._path_info.ca)}
        return address | {
            "store_path": self._path_info.store_path,
            "nar_hash": str(self._path_info.nar_hash),
            "nar_size": str(self._path_info.nar_size),
            "file_hash": str(Hash("sha256", self._out_digest.digest())),
            "file_size": str(self._out_size),
        }

    def _count_out(self, data: bytes | memoryview) -> None:
        if self._out_digest is not self._digest and self._out_digest is not self._nar_digest:
            self._out_digest.update(data)
        self._out_size += len(data)
