"""Kept files read once more: a disk that rots changes bytes that were right when they were written."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.cache.source import Piece
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.codecs import MAX_WINDOW_BYTES
from harmonia_py.contents.document_check import DocumentCheck
from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.kept_files import url_of
from harmonia_py.contents.nar_check import NarBounds, NarCheck
from harmonia_py.contents.pieces import whole_portions
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StorePath


class Rotten(Struct, frozen=True):
    """A kept file that is not what it was.

    Attributes:
        key: its name.
        reason: in words.
    """

    key: BlobKey
    reason: str


class Digest(Struct, frozen=True):
    """The result of reading a file.

    Attributes:
        file_size: bytes that were read.
        file_hash: of the file; None when the disk did not give all of it.
        claimed: the hash that the file was put with, as text; None when it was put without.
    """

    file_size: int
    file_hash: Hash | None
    claimed: str | None


class Digests(Protocol):
    """Reads blobs once more, behind all that is done for clients."""

    async def digest(self, key: BlobKey, *, rate: float | None = None) -> Digest | None:
        """The digest of a blob; None when there is none that is whole.

        Args:
            key: of the blob.
            rate: bytes a second that are read at the most; None for as many as may be.

        Raises:
            StorageError: nothing can be read at the moment.
        """


def fault_of(file_hash: Hash | None, file_size: int, digest: Digest | None) -> str | None:
    """The fault of a file, in words; None when it is right.

    Args:
        file_hash: that it had; None for the one that it was put with.
        file_size: that it had.
        digest: the result of reading it.
    """
    if digest is None:
        return MISSING
    if digest.file_hash is None:
        return "the disk cannot read it"
    if digest.file_size != file_size:
        return f"it has {digest.file_size} bytes, not {file_size}"
    expected = digest.claimed if file_hash is None else str(file_hash)
    if expected is not None and str(digest.file_hash) != expected:
        return f"its hash is {digest.file_hash}, not {expected}"
    return None


async def lasting_fault(
    digests: Digests, key: BlobKey, file_hash: Hash | None, file_size: int, *, rate: float | None = None
) -> str | None:
    """As `fault_of`, of a file that is read twice: one that was collected and came again in between is right then."""
    for _ in range(2):
        fault = fault_of(file_hash, file_size, await digests.digest(key, rate=rate))
        if fault is None:
            break
    return fault


MISSING: Final = "the file is missing, was cut, or was changed by another program"


def check_file(
    key: BlobKey,
    metadata: Mapping[str, str],
    pieces: Iterator[Piece],
    report: Callable[[int], object],
) -> Rotten | None:
    """Read a kept file to its end: its own hash, and size and hash of the NAR in it, against `metadata`.

    Blocks; a thread calls it.

    Args:
        key: the name of the file.
        metadata: what was kept with it.
        pieces: its bytes.
        report: called with the number of bytes read since the last call.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        file_hash = Hash.parse(metadata["file_hash"], "sha256")
        check = _check_of(key, metadata, file_hash)
    except (KeyError, ValueError, FormatError):
        return Rotten(key, "what is known of it does not parse")
    try:
        for portion in whole_portions(pieces):
            report(len(portion))
            check.feed(portion)
        check.finish()
    except FormatError as error:
        return Rotten(key, str(error))
    return None if check.metadata()["file_hash"] == str(file_hash) else Rotten(key, "it has another hash")


def _check_of(key: BlobKey, metadata: Mapping[str, str], file_hash: Hash) -> FileCheck:
    if "nar_hash" not in metadata:
        return DocumentCheck()  # a log or a listing, of which only the hash is known
    info = PathInfo(
        store_path=StorePath.parse(metadata["store_path"]),
        nar_hash=Hash.parse(metadata["nar_hash"], "sha256"),
        nar_size=int(metadata["nar_size"]),
    )
    compression = url_of(key).compression
    # Wide windows take no share of the memory: `verify` has a setting for how many files are read at once.
    bounds = NarBounds(usual_window=MAX_WINDOW_BYTES)
    return NarCheck(info, compression, file_hash, int(metadata["file_size"]), bounds=bounds)
