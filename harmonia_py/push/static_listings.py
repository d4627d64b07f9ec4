"""The listings of a static side: `<cache>/<hash part>.ls` beside the narinfo, the JSON that this server answers.

A listing is written before its narinfo, and deleted after it.
"""

import asyncio
from concurrent.futures import Executor
from typing import Final

from harmonia_py.catalog.objects import Document
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.pieces import SliceReader
from harmonia_py.contents.whole_blob import read_whole

LISTING: Final = ".ls"


class StaticListings:
    """Writes the listings of all caches.

    Args:
        blobs: has the files.
        read: reads slices of files.
        threads: read files.
    """

    def __init__(self, blobs: BlobStore, read: SliceReader, threads: Executor) -> None:
        self._blobs = blobs
        self._read = read
        self._threads = threads
        # A listing may have 256 MiB: of the long ones, only one at a time is in memory.
        self._long = asyncio.Lock()

    async def write(self, document: Document, key: BlobKey) -> None:
        """Write a listing under this key.

        Raises:
            StorageError: it cannot be read or written.
        """
        if document.body is not None:
            await self._blobs.put(key, document.body, {})
            return
        assert document.blob_key is not None
        async with self._long:
            data = await read_whole(self._blobs, BlobKey(document.blob_key), self._read, self._threads)
            if data is not None:  # `fsck` finds one that is lost
                await self._blobs.put(key, data, {})
