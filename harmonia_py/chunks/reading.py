"""Bytes of packs and recipes, read in threads: a bad block of the disk told from a bucket that does not answer.

A block that the disk cannot read stays bad, as a rule: packs are written anew without it (`Unreadable`). A bucket that
breaks off, or is busy, may have the bytes all the same (another `StorageError`).
"""

from collections.abc import Iterator

from harmonia_py.cache.source import FileSlice
from harmonia_py.contents.blobs import Blob
from harmonia_py.contents.pieces import read_slice, whole_portions
from harmonia_py.errors import StorageError, StorePathChanged


class Unreadable(StorageError):
    """The disk cannot read these bytes, and mostly not later; other bytes it may."""


def bytes_of(blob: Blob, offset: int, size: int) -> bytes:
    """Bytes of a blob.

    Raises:
        Unreadable: the disk cannot read them.
        StorageError: they cannot be read for now, which says nothing of the blob.
    """
    pieces = blob.pieces(offset, offset + size)
    return b"".join(map(bytes, whole_portions(pieces, size, read=_read)))


def _read(piece: FileSlice, buffer: bytearray) -> Iterator[memoryview]:
    try:
        yield from read_slice(piece, buffer)
    except (StorageError, StorePathChanged) as error:
        raise Unreadable(str(error)) from error
