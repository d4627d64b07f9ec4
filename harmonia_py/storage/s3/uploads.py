"""Uploads of clients to the bucket itself.

    <prefix>/.pending/<name>    what a client sends, with a URL that is signed for this name
    <prefix>/.seized/<random>   what was moved out of its reach, to be read back

A bucket copies by itself: no byte of an upload passes this program until it is read back.
"""

import secrets
import time
from contextlib import suppress
from typing import Final

from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.storage.s3 import metadata as headers
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.objects import Objects

PENDING: Final = ".pending/"
"""The beginning of the names of what clients send."""
_SEIZED: Final = ".seized/"
# Read back and published long before, or left by a process that was killed.
_SEIZED_SECONDS: Final = 3600.0


class S3Uploads:
    """`DirectUploads` beside the blobs of a bucket.

    Args:
        blobs: are open as long as this is used.
    """

    def __init__(self, blobs: S3Blobs) -> None:
        self._links = blobs.links
        self._objects = blobs.objects

    async def url(self, name: str) -> str:
        """As in `DirectUploads`."""
        await self._objects.owner.check()
        return await self._links.to_write(f"{PENDING}{name}")

    async def seize(self, name: str) -> "SeizedObject | None":
        """As in `DirectUploads`."""
        key = f"{_SEIZED}{secrets.token_hex(16)}"
        if not await self._objects.copy(f"{PENDING}{name}", key):
            return None
        blob = await self._objects.open(key)
        if blob is None:
            raise StorageError("the bucket has lost a file that it has just copied")
        seized = SeizedObject(self._objects, key, blob)
        # Both copies keep the headers that its sender has chosen, and the bucket would say them to clients.
        if not headers.is_plain(blob.metadata):
            await seized.close()
            raise FormatError(f"the file was sent with headers that no NAR has: {', '.join(sorted(blob.metadata))}")
        return seized

    async def forget(self, name: str) -> None:
        """As in `DirectUploads`."""
        await self._objects.remove([f"{PENDING}{name}"])

    async def sweep(self, seconds: float) -> int:
        """As in `DirectUploads`."""
        count = 0
        for prefix, age in ((PENDING, seconds), (_SEIZED, _SEIZED_SECONDS)):
            old = await self._objects.names(prefix, before=time.time() - age)
            await self._objects.remove(old)
            count += len(old)
        return count


class SeizedObject:
    """A `SeizedUpload` in a bucket."""

    def __init__(self, objects: Objects, key: str, blob: Blob) -> None:
        self.blob = blob
        self._objects = objects
        self._key = key

    async def keep(self, key: BlobKey) -> None:
        """As in `SeizedUpload`."""
        # An answer that begins with 200 may still end with an error.
        kept = await self._objects.open(key) if await self._objects.copy(self._key, key) else None
        if kept is None or kept.size != self.blob.size:
            raise StorageError("the bucket has not copied a file that was to be kept")

    async def close(self) -> None:
        """As in `SeizedUpload`."""
        self.blob.release()
        with suppress(StorageError):  # swept later
            await self._objects.remove([self._key])
