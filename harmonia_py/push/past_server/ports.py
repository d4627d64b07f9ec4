"""The ports of what clients send to the bucket: `DirectUploads` in one request, `MultipartUploads` in parts."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

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


class BucketUpload(Struct, frozen=True):
    """An upload in parts, as the bucket knows it.

    Attributes:
        name: of the file that it becomes. The bucket takes nothing for this upload under another name.
        id: of the upload.
    """

    name: str
    id: str


class MultipartUploads(Protocol):
    """Uploads of files under pending names, which nothing reads. Each method raises `StorageError` if it cannot tell.

    A name is of one upload alone, and once that is complete, nothing more can be sent for it.
    """

    async def begin(self, name: str) -> str:
        """Begin an upload under a name that was never used; its id."""

    def part_url(self, upload: BucketUpload, number: int, size: int) -> str:
        """A URL to which a client may send part `number`, from 1 on, of exactly `size` bytes, for a while."""

    async def seize(self, upload: BucketUpload, etags: Sequence[str]) -> SeizedUpload | None:
        """The file that the parts with these tags make, also when it was made before; None: there is no such upload.

        Raises:
            FormatError: these are not the parts that were sent.
        """

    async def forget(self, upload: BucketUpload) -> None:
        """Remove the parts that were sent, and the file that they have become, if there are any."""

    async def unfinished(self, prefix: str = "") -> Sequence[BucketUpload]:
        """Uploads of names that begin like this, which were neither seized nor forgotten; some thousands of them."""
