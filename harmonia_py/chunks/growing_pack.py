"""A pack while it is written: frame by frame into the spool, then put whole, then entered in the catalog."""

import secrets
from collections.abc import Callable
from typing import Self

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.nars import PACKS
from harmonia_py.chunks.catalog import PACK_BYTES, Chunks, PackedChunk, Packs
from harmonia_py.chunks.chunked_files import ChunkedFiles
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.spool import Spool, SpoolWriter
from harmonia_py.errors import StorageError
from harmonia_py.runtime.threads import Threads, in_thread


class ChunkStorage(Struct, frozen=True, eq=False, kw_only=True):
    """The things by which chunks are kept, as jobs use them.

    Attributes:
        chunks: rows of chunks and recipes.
        packs: rows of packs.
        blobs: bytes of packs and recipes.
        spool: for a pack that is being written.
        files: makes files of chunks.
        threads: read, compute and write.
        now: the time.
    """

    chunks: Chunks
    packs: Packs
    blobs: BlobStore
    spool: Spool
    files: ChunkedFiles
    threads: Threads
    now: Callable[[], Timestamp]


class GrowingPack:
    """A pack on its way. Made by `begin`, and closed at the end.

    Attributes:
        size: bytes so far.
        chunks: by their hashes, in the order of their places.
    """

    def __init__(self, storage: ChunkStorage, name: str, writer: SpoolWriter) -> None:
        self.size = 0
        self.chunks: dict[ChunkHash, PackedChunk] = {}
        self._storage = storage
        self._key = BlobKey(f"{PACKS}{name}")
        self._writer = writer

    @classmethod
    async def begin(cls, storage: ChunkStorage) -> Self:
        """A pack of about `PACK_BYTES`.

        Raises:
            StorageError: it cannot be begun.
        """
        name = secrets.token_hex(16)
        writer = await storage.spool.begin(BlobKey(name), PACK_BYTES)
        if writer is None:
            raise StorageError("a pack of this name is being written already")
        return cls(storage, name, writer)

    def add(self, chunk: ChunkHash, frame: bytes | memoryview) -> None:
        """Write the frame of a chunk. A thread calls it."""
        self._writer.write(frame)
        self.chunks[chunk] = PackedChunk(chunk, self.size, len(frame))
        self.size += len(frame)

    async def put(self) -> None:
        """Keep the pack, and enter it with its chunks; nothing happens when it has none.

        Raises:
            StorageError: it cannot be kept or entered.
        """
        if self.chunks:
            storage = self._storage
            content = await in_thread(storage.threads, self._writer.finish)
            await storage.blobs.put(self._key, content, {}, durable=True)
            await storage.packs.add(self._key, self.size, list(self.chunks.values()), now=storage.now())

    async def close(self) -> None:
        """Let go of what was written and not put."""
        await in_thread(self._storage.threads, self._writer.close)
