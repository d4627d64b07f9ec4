"""Hashes of blobs in a bucket, fetched once more."""

from functools import partial
from typing import Self

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest
from harmonia_py.runtime.threads import Pool
from harmonia_py.storage.digesting import PORTION, Reading, ReadingThreads
from harmonia_py.storage.s3 import metadata as headers
from harmonia_py.storage.s3.errors import is_absent, translated
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.storage.s3.stores import body_store


class S3Digests:
    """Computes hashes of blobs in a bucket. Entered inside the event loop that uses it.

    Args:
        settings: of the bucket.
        threads: number of blobs that are read at once.
    """

    def __init__(self, settings: S3Settings, *, threads: int = 1) -> None:
        self._settings = settings
        self._threads = ReadingThreads(Pool.BUCKET_DIGEST, threads)

    async def __aenter__(self) -> Self:
        with translated("open the bucket"):
            self._store = body_store(self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._threads.aclose()

    async def digest(self, key: BlobKey, *, rate: float | None = None) -> Digest | None:
        """As in `Digests`."""
        return await self._threads.run(partial(self._read, key), rate)

    def _read(self, key: BlobKey, reading: Reading) -> Digest | None:
        with translated("read a file of the bucket once more"):
            try:
                answer = self._store.get(key)
            except FileNotFoundError as error:
                if is_absent(error):
                    return None
                raise
            for data in answer.stream(min_chunk_size=PORTION):
                reading.add(memoryview(data))
        return Digest(reading.size, reading.hash(), headers.parse(answer.attributes).get("file_hash"))
