"""A NAR made into a zstd file, and verified on the way."""

import hashlib
import sys
from dataclasses import dataclass
from typing import Final

from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Less would keep a single thread busy, and threads want buffers. Only the size of the NAR decides, so that one NAR
# always becomes the same bytes.
_THREADS_FROM_BYTES: Final = 8 * 1024 * 1024
# zstd's own choice at the levels up to this, 8 MiB, costs 60 MiB of buffers; this costs 28, and 0.7 % of the size.
_FAST_LEVEL: Final = 6
_FAST_JOB_BYTES: Final = 4 * 1024 * 1024


class NarMismatch(StorePathChanged):
    """The files of a store path are not what its NarHash and NarSize say.

    Attributes:
        path_info: what the store says.
        nar_hash: what the NAR has instead; None when it is already too long, and the rest was not read.
    """

    def __init__(self, path_info: PathInfo, nar_hash: Hash | None) -> None:
        super().__init__(f"the NAR of {path_info.store_path} does not match its NarHash {path_info.nar_hash}")
        self.path_info = path_info
        self.nar_hash = nar_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Zstd:
    """How to compress.

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

    def compressor(self, nar_size: int) -> zstd.ZstdCompressor:
        """A compressor for a NAR of this size."""
        options: dict[int, int] = {zstd.CompressionParameter.compression_level: self.level}
        if nar_size >= _THREADS_FROM_BYTES:
            options[zstd.CompressionParameter.nb_workers] = self.threads
            ordinary = self.window_log is None and not self.long_distance_matching
            if self.threads and self.level <= _FAST_LEVEL and ordinary:
                options[zstd.CompressionParameter.job_size] = _FAST_JOB_BYTES
        if self.long_distance_matching:
            options[zstd.CompressionParameter.enable_long_distance_matching] = 1
        if self.window_log is not None:
            options[zstd.CompressionParameter.window_log] = self.window_log
        return zstd.ZstdCompressor(options=options)


class NarCompressor:
    """Takes the bytes of a NAR and gives those of its zstd file. The hashes are known at the end.

    Hashing and compressing give up the interpreter's lock, so other threads run on while this one works.
    """

    def __init__(self, path_info: PathInfo, settings: Zstd) -> None:
        self.path_info = path_info
        self._compressor = settings.compressor(path_info.nar_size)
        self._nar_hash = hashlib.sha256()
        self._nar_size = 0
        self._file_hash = hashlib.sha256()
        self.file_size = 0

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Compress the next bytes; the result may be empty.

        Raises:
            NarMismatch: the NAR is longer than its NarSize.
        """
        self._nar_size += len(data)
        if self._nar_size > self.path_info.nar_size:
            raise NarMismatch(self.path_info, None)
        self._nar_hash.update(data)
        return self._put_out(self._compressor.compress(data))

    def finish(self) -> bytes:
        """The last bytes.

        Raises:
            NarMismatch: the NAR is not the one that the path info describes; what came out before is worthless.
        """
        nar_hash = Hash("sha256", self._nar_hash.digest())
        if nar_hash != self.path_info.nar_hash or self._nar_size != self.path_info.nar_size:
            raise NarMismatch(self.path_info, nar_hash)
        return self._put_out(self._compressor.flush())

    @property
    def file_hash(self) -> Hash:
        """SHA-256 of all that came out."""
        return Hash("sha256", self._file_hash.digest())

    def _put_out(self, data: bytes) -> bytes:
        self._file_hash.update(data)
        self.file_size += len(data)
        return data
