"""The port `DirectUploads`: files that clients send straight to the bucket, past this server."""

from typing import Protocol

from harmonia_py.contents.blobs import Blob, BlobKey


class SeizedUpload(Protocol):
    """A file that a client has sent, where the client cannot change it any more.

    Attributes:
        blob: its bytes.
    """

    @property
    def blob(self) -> Blob: ...  # noqa: D102  # see the class

    async def keep(self, key: BlobKey) -> None:
        """Make the file the blob of this key, in the place of one that was there.

        Raises:
            StorageError: it cannot.
        """

    async def close(self) -> None:
        """Forget the file; a blob that it has become stays."""


class DirectUploads(Protocol):
    """Files under pending names, which nothing reads. Each method raises `StorageError` when it cannot tell."""

    async def url(self, name: str) -> str:
        """A URL to which a client may send a file, with one PUT, for a while."""

    async def seize(self, name: str) -> SeizedUpload | None:
        """The file that was sent, moved out of its sender's reach; None when there is none.

        Raises:
            FormatError: it was sent with headers that the bucket would give to every reader.
        """

    async def forget(self, name: str) -> None:
        """Remove the file that was sent, if there is one."""

    async def sweep(self, seconds: float) -> int:
        """Remove files that were sent so long ago or earlier; returns their number."""
