"""A small blob, read into memory."""

from concurrent.futures import Executor
from typing import Final

from harmonia_py.contents.blobs import Blob, BlobKey, BlobStore
from harmonia_py.contents.pieces import whole_portions
from harmonia_py.runtime.threads import in_thread

NOT_WHOLE: Final = (
    "it is not there as it was written: it was cut or changed, or a copy has lost its extended attributes (cp -a,"
    " rsync -X and tar --xattrs keep them)"
)
"""The words for a blob that is listed, and cannot be opened."""


async def read_whole(blobs: BlobStore, key: BlobKey, threads: Executor) -> bytes | None:
    """The bytes of a blob; None when there is none.

    Raises:
        StorageError: they cannot be read.
    """
    blob = await blobs.open(key)
    if blob is None:
        return None
    with blob:
        return await in_thread(threads, _read, blob)


def _read(blob: Blob) -> bytes:
    return b"".join(bytes(part) for part in whole_portions(blob.pieces(0, None), blob.size))
