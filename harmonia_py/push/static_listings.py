"""The listings of a static side: `<cache>/<hash part>.ls` beside the narinfo, the JSON that this server answers.

A listing is written before its narinfo, and deleted after it.
"""

import asyncio
from typing import Final

from msgspec import Struct, field

from harmonia_py.catalog.objects import Document
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.whole_blob import read_whole
from harmonia_py.push.ports import PushPorts

LISTING: Final = ".ls"


class StaticListings(Struct, frozen=True, eq=False):
    """Writes the listings of all caches.

    Attributes:
        ports: the files, and what reads them.
    """

    ports: PushPorts
    # A listing may have 256 MiB: of the long ones, only one at a time is in memory.
    _long: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def write(self, document: Document, key: BlobKey) -> None:
        """Write a listing under this key.

        Raises:
            StorageError: it cannot be read or written.
        """
        ports = self.ports
        if document.body is not None:
            await ports.blobs.put(key, document.body, {})
            return
        assert document.blob_key is not None
        async with self._long:
            data = await read_whole(ports.blobs, BlobKey(document.blob_key), ports.threads)
            if data is not None:  # `fsck` finds one that is lost
                await ports.blobs.put(key, data, {})
