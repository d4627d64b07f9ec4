"""The files in which a server of Attic keeps chunks: below a directory, or in a bucket.

Source: `get_path` in `server/src/storage/local.rs` of Attic.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harmonia_py.attic.rows import AtticChunk, BucketFile
from harmonia_py.contents.codecs import Unpacker
from harmonia_py.errors import ConfigError, FormatError, StorageError

_READ_BYTES: Final = 256 * 1024


class ChunkFiles:
    """Reads chunks.

    Args:
        directory: of local files; None where there are none.
        bucket: what the library for buckets is told besides region and name; None where there are none.
    """

    def __init__(self, directory: Path | None, bucket: Mapping[str, Any] | None) -> None:
        self._directory = directory
        self._bucket = bucket
        self._stores: dict[tuple[str, str], Any] = {}

    async def nar(self, chunks: Sequence[AtticChunk]) -> AsyncIterator[bytes]:
        """The bytes of a NAR that is made of `chunks`.

        Raises:
            FormatError: a chunk is not there, or is not compressed as it should be.
            ConfigError: it is where nothing was said of.
            StorageError: it cannot be read.
        """
        for chunk in chunks:
            unpacker = Unpacker(chunk.compression)
            async for data in self._read(chunk.file):
                for portion in await asyncio.to_thread(_unpacked, unpacker, data):
                    yield portion
            if not unpacker.is_whole:
                raise FormatError("a chunk of its NAR ends too early")

    async def _read(self, file: str | BucketFile) -> AsyncIterator[bytes]:
        if isinstance(file, BucketFile):
            async for data in self._read_bucket(file):
                yield data
            return
        portions = self._read_local(file)
        while data := await asyncio.to_thread(next, portions, b""):
            yield data

    def _read_local(self, name: str) -> Iterator[bytes]:
        if self._directory is None:
            raise ConfigError("chunks are in a directory: name it with --storage")
        # A server of the first releases kept all files in one directory.
        for place in (self._directory / name[0] / name[:2] / name, self._directory / name):
            try:
                with place.open("rb") as stream:
                    while data := stream.read(_READ_BYTES):
                        yield data
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StorageError(f"{place}: {error.strerror}") from None
            else:
                return
        raise FormatError(f"the file {name} of a chunk is not there")

    async def _read_bucket(self, file: BucketFile) -> AsyncIterator[bytes]:
        store = self._store(file)
        from obstore.exceptions import BaseError  # noqa: PLC0415  # of an extra

        try:
            found = await store.get_async(file.key)
            async for data in found.stream(min_chunk_size=_READ_BYTES):
                yield bytes(data)
        except FileNotFoundError:
            raise FormatError(f"the object {file.key} of a chunk is not there") from None
        except (BaseError, OSError) as error:
            raise StorageError(f"{file.bucket}: {type(error).__name__}") from None

    def _store(self, file: BucketFile) -> Any:
        if self._bucket is None:
            raise ConfigError("chunks are in a bucket: name the configuration of atticd with --server-config")
        known = self._stores.get((file.region, file.bucket))
        if known is None:
            try:
                from obstore.store import S3Store  # noqa: PLC0415  # of an extra
            except ImportError:
                raise ConfigError(
                    "Attic's chunks are in a bucket, and obstore is not installed: install harmonia-py[s3]"
                ) from None
            known = S3Store(file.bucket, region=file.region, **self._bucket)
            self._stores[file.region, file.bucket] = known
        return known


def _unpacked(unpacker: Unpacker, data: bytes) -> list[bytes]:
    return [bytes(portion) for portion in unpacker.feed(data)]
