"""The port `PartialFiles`: files that come in parts, over many requests, workers and restarts."""

from collections.abc import Iterator
from typing import Protocol

from harmonia_py.contents.blobs import SpooledFile


class PartialFile(Protocol):
    """A partial file, opened for this request alone. Its methods block: a thread calls them, one at a time.

    Attributes:
        size: bytes that are here.
    """

    size: int

    def write(self, data: bytes) -> None:
        """Add bytes at the end.

        Raises:
            StorageError: the bytes could not be written; `StorageFull` when there is no room.
        """

    def read(self) -> Iterator[bytes]:
        """The bytes from the beginning, a little at a time.

        Raises:
            StorageError: they cannot be read.
        """

    def spooled(self) -> SpooledFile:
        """The file, all of whose bytes are here, as a blob store takes it."""

    def remove(self) -> None:
        """Remove the file, unless a blob store has taken it."""

    def close(self) -> None:
        """Let another request have it."""


class PartialFiles(Protocol):
    """Partial files under names. A method that cannot tell raises `StorageError`."""

    async def size(self, name: str) -> int:
        """Bytes that are here of this file; 0 when there is none."""

    async def open(self, name: str) -> PartialFile | None:
        """The file, which is made when it is not there; None while another request has it, in whichever process."""

    async def taken(self, prefix: str) -> int:
        """Bytes of all files here whose names begin like this, without those that a blob store has taken."""

    async def sweep(self, seconds: float) -> int:
        """Remove the files to which nothing was added for so long; returns their number."""
