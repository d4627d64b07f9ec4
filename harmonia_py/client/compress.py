"""The file of a NAR, made as it is read, and held against the hash that the store has for it.

`nix copy` does not compare them, in any version: it pushes damaged files under their registered hash.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

from harmonia_py.contents.encoders import Zstd
from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo

# With two threads 17 MB of buffers in place of 30, and files that are 0.5 % larger.
_JOB_BYTES: Final = 2 * 1024 * 1024


def compressed(nar: Iterator[bytes | memoryview], info: PathInfo, zstd: Zstd) -> Iterator[tuple[int, bytes]]:
    """The file piece by piece, each with the number of bytes of the NAR behind it. It computes: a thread draws it.

    The last piece comes only when the NAR has proved to be the one that the store knows: no file is whole before.

    Raises:
        StorePathChanged: it is another NAR.
        StorageError: its files cannot be read.
    """
    digest, size, read = hashlib.sha256(), 0, 0
    compressor = zstd.compressor(info.nar_size, _JOB_BYTES)
    for portion in nar:
        digest.update(portion)
        size, read = size + len(portion), read + len(portion)
        piece = compressor.compress(portion)
        if piece:
            yield read, piece
            read = 0
    check_nar(info, size, Hash("sha256", digest.digest()))
    yield read, compressor.flush()


def check_nar(info: PathInfo, nar_size: int, nar_hash: Hash) -> None:
    """Hold a NAR that was read against what the store says.

    Raises:
        StorePathChanged: it is another NAR.
    """
    if (nar_size, nar_hash) != (info.nar_size, info.nar_hash):
        raise StorePathChanged(
            f"its files are not what the store says ({nar_hash} instead of {info.nar_hash}): "
            "`nix-store --verify-path` looks, `nix-store --repair-path` mends"
        )
