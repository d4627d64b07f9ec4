"""A `BlobStore` in memory, behind the port: what a test keeps is gone with it."""

import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping

from harmonia_py.cache.source import Piece
from harmonia_py.contents.blobs import IN_USE, Blob, BlobInfo, BlobKey, SpooledFile


class MemoryBlobs:
    """Blobs in a dictionary."""

    def __init__(self) -> None:
        self._blobs: dict[BlobKey, tuple[bytes, dict[str, str]]] = {}
        self._uses: dict[BlobKey, float] = {}
        self._readers: list[BlobKey] = []

    async def open(self, key: BlobKey) -> Blob | None:
        found = self._blobs.get(key)
        if found is None:
            return None
        data, metadata = found
        self._uses[key] = time.time()
        self._readers.append(key)

        def pieces(start: int, stop: int | None) -> Iterator[Piece]:
            yield data[start:stop]

        return Blob(size=len(data), metadata=metadata, pieces=pieces, release=lambda: self._readers.remove(key))

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        found = self._blobs.get(key)
        return None if found is None else found[1]

    async def put(
        self,
        key: BlobKey,
        content: SpooledFile | bytes,
        metadata: Mapping[str, str],
        *,
        durable: bool = False,  # noqa: ARG002  # nothing here outlives the process
    ) -> None:
        data = content if isinstance(content, bytes) else os.pread(content.fd, content.size, 0)
        self._blobs[key] = (data, dict(metadata))
        self._uses[key] = time.time()

    async def delete(self, key: BlobKey) -> None:
        self._blobs.pop(key, None)

    async def list(self) -> AsyncIterator[BlobInfo]:
        for key, (data, _) in list(self._blobs.items()):
            yield BlobInfo(key, len(data), IN_USE if key in self._readers else self._uses[key])
