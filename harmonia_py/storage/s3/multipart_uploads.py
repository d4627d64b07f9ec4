"""Uploads of clients to the bucket itself, in parts.

    <prefix>/.pending/<name>    what the parts become; until then no object has this name

Only this program can put the parts together, and only an upload that was begun for this name can become
this object. So it need not be moved out of its sender's reach before it is read back.
"""

from collections.abc import Sequence
from typing import Final

from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.push.past_server.ports import BucketUpload
from harmonia_py.storage.s3.multipart import Multipart
from harmonia_py.storage.s3.objects import HEAD_BYTES, Objects
from harmonia_py.storage.s3.uploads import PENDING

_LOST: Final = "the bucket has lost a file whose parts it has put together"


class S3MultipartUploads:
    """`MultipartUploads` beside the blobs of a bucket.

    Args:
        multipart: makes the requests.
        objects: of the bucket.
    """

    def __init__(self, multipart: Multipart, objects: Objects) -> None:
        self._multipart = multipart
        self._objects = objects

    async def begin(self, name: str) -> str:
        """As in `MultipartUploads`."""
        await self._objects.owner.check()
        return await self._multipart.begin(f"{PENDING}{name}")

    def part_url(self, upload: BucketUpload, number: int, size: int) -> str:
        """As in `MultipartUploads`."""
        return self._multipart.part_url(f"{PENDING}{upload.name}", upload.id, number, size)

    async def seize(self, upload: BucketUpload, etags: Sequence[str]) -> "MultipartObject | None":
        """As in `MultipartUploads`."""
        key = f"{PENDING}{upload.name}"
        await self._objects.owner.check()
        is_complete = await self._multipart.complete(key, upload.id, etags)
        found = await self._objects.look(key, HEAD_BYTES)
        if found is None:
            if is_complete:
                raise StorageError(_LOST)
            return None
        if found.etag is None:
            raise StorageError("the bucket does not tell files of one name apart")
        blob = Blob(size=found.size, metadata={}, pieces=lambda *part: self._objects.pieces(key, found, *part))
        return MultipartObject(self._multipart, self._objects, key, found.etag, blob)

    async def forget(self, upload: BucketUpload) -> None:
        """As in `MultipartUploads`."""
        key = f"{PENDING}{upload.name}"
        await self._objects.owner.check()
        try:
            await self._multipart.abort(key, upload.id)
        finally:
            await self._objects.remove([key])

    async def unfinished(self, prefix: str = "") -> Sequence[BucketUpload]:
        """As in `MultipartUploads`."""
        found = await self._multipart.open_uploads(f"{PENDING}{prefix}")
        return [BucketUpload(one.name.removeprefix(PENDING), one.id) for one in found]


class MultipartObject:
    """A `SeizedUpload` that came in parts."""

    def __init__(self, multipart: Multipart, objects: Objects, key: str, etag: str, blob: Blob) -> None:
        self.blob = blob
        self._multipart = multipart
        self._objects = objects
        self._key = key
        self._etag = etag

    async def keep(self, key: BlobKey) -> None:
        """As in `SeizedUpload`."""
        # By its tag: of two requests at once to put parts together, a server might obey both.
        await self._multipart.copy(self._key, key, self._etag, self.blob.size)
        kept = await self._objects.open(key)
        if kept is None or kept.size != self.blob.size:
            raise StorageError("the bucket has not copied a file that was to be kept")

    async def close(self) -> None:
        """Leave the file: when it cannot be kept now, the client may ask again."""
        self.blob.release()
