"""Hashes of blobs in a bucket, fetched once more."""

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.digesting import PORTION, BlobDigests, Reading
from harmonia_py.storage.s3 import metadata as headers
from harmonia_py.storage.s3.errors import UnlessAbsent, translated
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.storage.s3.stores import body_store


class S3Digests(BlobDigests):
    """Computes hashes of blobs in a bucket.

    Args:
        settings: of the bucket.
        threads: number of blobs that are read at once.

    Raises:
        StorageError: the bucket cannot be opened.
    """

    def __init__(self, settings: S3Settings, *, threads: int = 1) -> None:
        super().__init__(Threads(Pool.BUCKET_DIGEST, threads))
        with translated("open the bucket"):
            self._store = body_store(settings)

    def _read(self, key: BlobKey, reading: Reading) -> Digest | None:
        with translated("read a file of the bucket once more"), UnlessAbsent():
            answer = self._store.get(key)
            for data in answer.stream(min_chunk_size=PORTION):
                reading.add(memoryview(data))
            return Digest(reading.size, reading.hash(), headers.parse(answer.attributes).get("file_hash"))
        return None
