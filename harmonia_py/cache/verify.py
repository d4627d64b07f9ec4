"""Reading what is kept once more: a disk that rots changes bytes that were right when they were written."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from harmonia_py.cache.blobs import BlobKey
from harmonia_py.cache.file_check import FileCheck
from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.cache.unpack import NarCheck
from harmonia_py.cache.wanted import DocumentCheck
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StorePath

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BUFFER_BYTES: Final = 1024 * 1024

SliceReader = Callable[[FileSlice, bytearray], Iterator[memoryview]]


class _Facts(NamedTuple):
    file_hash: Hash
    nar_hash: Hash
    nar_size: int


_WORDS: Final = {"file_hash": "FileHash", "nar_hash": "NarHash", "nar_size": "NarSize"}


@dataclass(frozen=True, slots=True)
class Rotten:
    """A kept file that is not what it was.

    Attributes:
        key: its name.
        reason: in words.
    """

    key: BlobKey
    reason: str


def check_file(
    key: BlobKey,
    metadata: Mapping[str, str],
    pieces: Iterator[Piece],
    read: SliceReader,
    report: Callable[[int], object],
) -> Rotten | None:
    """Read a kept file to its end: its own hash, and size and hash of the NAR in it, against `metadata`.

    Blocks; a thread calls it.

    Args:
        key: the name of the file.
        metadata: what was kept with it.
        pieces: its bytes.
        read: reads slices of files.
        report: called with the number of bytes read since the last call.

    Raises:
        StorageError: the file cannot be read.
    """
    if not key.endswith(".zst"):
        return _check_other(key, metadata, pieces, read, report)
    try:
        expected = _Facts(
            Hash.parse(metadata["file_hash"], "sha256"),
            Hash.parse(metadata["nar_hash"], "sha256"),
            int(metadata["nar_size"]),
        )
    except (KeyError, ValueError, FormatError):
        return Rotten(key, "what is known of it does not parse")
    try:
        found = _read(pieces, read, report, expected.nar_size)
    except (zstd.ZstdError, EOFError):
        return Rotten(key, "it is no whole zstd file any more")
    if found != expected:
        names = [name for name in _Facts._fields if getattr(found, name) != getattr(expected, name)]
        return Rotten(key, f"it has another {_WORDS[names[0]]}")
    return None


def _check_other(
    key: BlobKey,
    metadata: Mapping[str, str],
    pieces: Iterator[Piece],
    read: SliceReader,
    report: Callable[[int], object],
) -> Rotten | None:
    """The same for what an upstream had in another form, and for logs and listings, of which only the hash is known."""
    try:
        file_hash = Hash.parse(metadata["file_hash"], "sha256")
        check: FileCheck = DocumentCheck()
        if "nar_hash" in metadata:
            name, _, hash_part = key.partition("?hash=")
            info = PathInfo(
                store_path=StorePath.parse(metadata["store_path"]),
                nar_hash=Hash.parse(metadata["nar_hash"], "sha256"),
                nar_size=int(metadata["nar_size"]),
            )
            compression = NarUrl.parse(name, hash_part or None).compression
            check = NarCheck(info, compression, file_hash, int(metadata["file_size"]))
    except (KeyError, ValueError, FormatError):
        return Rotten(key, "what is known of it does not parse")
    try:
        for portion in _portions(pieces, read):
            report(len(portion))
            check.feed(bytes(portion))
        check.finish()
    except FormatError as error:
        return Rotten(key, str(error))
    return None if check.metadata()["file_hash"] == str(file_hash) else Rotten(key, "it has another hash")


def _read(pieces: Iterator[Piece], read: SliceReader, report: Callable[[int], object], max_size: int) -> _Facts:
    file_digest, nar_digest, nar_size = hashlib.sha256(), hashlib.sha256(), 0
    decompressor = zstd.ZstdDecompressor()
    for portion in _portions(pieces, read):
        report(len(portion))
        file_digest.update(portion)
        data = decompressor.decompress(portion, max_length=BUFFER_BYTES)
        # What is too long already is not read to its end: a few bytes can stand for a disk full of zeros.
        while data and nar_size <= max_size:
            nar_size += len(data)
            nar_digest.update(data)
            done = decompressor.needs_input or decompressor.eof
            data = b"" if done else decompressor.decompress(b"", max_length=BUFFER_BYTES)
    if decompressor.unused_data or (not decompressor.eof and nar_size <= max_size):
        raise EOFError
    return _Facts(Hash("sha256", file_digest.digest()), Hash("sha256", nar_digest.digest()), nar_size)


def _portions(pieces: Iterator[Piece], read: SliceReader) -> Iterator[bytes | memoryview]:
    buffer = bytearray(BUFFER_BYTES)
    for piece in pieces:
        if isinstance(piece, FileSlice):
            yield from read(piece, buffer)
        elif not isinstance(piece, Pause):
            yield piece
