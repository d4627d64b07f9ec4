"""The port `MultipartUploads`: files that clients send to the bucket in parts, past this server."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from harmonia_py.push.direct_uploads import SeizedUpload


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
