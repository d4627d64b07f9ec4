"""The port `Spool`: files on their way in, on a local disk.

A file has one writer over all processes, and any number of readers in any process that follow it as it grows. What is
finished is put into a `BlobStore`, or read from there, and then its writer is closed.
"""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

from msgspec import Struct

from harmonia_py.cache.source import Piece
from harmonia_py.contents.blobs import BlobKey, SpooledFile


class SpoolWriter(Protocol):
    """A file being written, by this writer alone. Its methods block: a thread calls them, one at a time."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes; readers see them at once.

        Raises:
            StorageError: the bytes could not be written; `StorageFull` when there is no room.
        """

    def finish(self) -> SpooledFile:
        """Say that these were all bytes: readers come to their end.

        Raises:
            StorageError: that cannot be said.
        """

    def is_followed(self) -> bool:
        """Whether a reader has the file open, in any process; True also where that cannot be told."""

    def close(self) -> None:
        """Release the key for another writer. Called once or more often; a file that no blob store took is removed.

        Readers of a file that was not finished are cut.
        """


class GrowingFile(Struct, frozen=True):
    """A file being written, opened for reading.

    Attributes:
        pieces: as in `Download`. It yields a `Pause` that is woken when there is more, and raises `StorageError` when
            the writer gave up, died, or stands still.
        reaches_beyond: returns when the file is longer than so many bytes, or will not grow any more: whether something
            is to be had of it still.
        closed: returns when the writer has been closed, or has died.
        release: called once; pieces that are being drawn go on.
    """

    pieces: Callable[[int, int | None], Iterator[Piece]]
    reaches_beyond: Callable[[int], Coroutine[Any, Any, bool]]
    closed: Callable[[], Coroutine[Any, Any, None]]
    release: Callable[[], None]


class Spool(Protocol):
    """Files in flight, under the keys of the blobs that they become. One that cannot tell raises `StorageError`."""

    async def begin(self, key: BlobKey, expected_size: int) -> SpoolWriter | None:
        """Begin to write a file of at most about `expected_size` bytes; None while another writer has that key.

        Raises:
            StorageFull: there is no room for so much.
        """

    async def follow(self, key: BlobKey) -> GrowingFile | None:
        """The file that is being written under this key, by any process; None when there is none."""

    async def free_bytes(self) -> int:
        """The free bytes of the file system."""
