"""A pack while it is written: frame by frame into the spool, then put whole, then entered in the catalog."""

import secrets
from concurrent.futures import Executor
from typing import Self

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.nars import PACKS
from harmonia_py.chunks.catalog import PackedChunk, Packs
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.spool import Spool, SpoolWriter
from harmonia_py.errors import StorageError
from harmonia_py.runtime.threads import in_thread


class GrowingPack:
    """A pack on its way. Made by `begin`, and closed at the end.

    Attributes:
        size: bytes so far.
        chunks: by their hashes, in the order of their places.
    """

    def __init__(self, name: str, writer: SpoolWriter, threads: Executor) -> None:
        self.size = 0
        self.chunks: dict[ChunkHash, PackedChunk] = {}
        self._key = BlobKey(f"{PACKS}{name}")
        self._writer = writer
        self._threads = threads

    @classmethod
    async def begin(cls, spool: Spool, pack_bytes: int, threads: Executor) -> Self:
        """A pack of about so many bytes.

        Raises:
            StorageError: it cannot be begun.
        """
        name = secrets.token_hex(16)
        writer = await spool.begin(BlobKey(name), pack_bytes)
        if writer is None:
            raise StorageError("a pack of this name is being written already")
        return cls(name, writer, threads)

    def add(self, chunk: ChunkHash, frame: bytes | memoryview) -> None:
        """Write the frame of a chunk. A thread calls it."""
        self._writer.write(frame)
        self.chunks[chunk] = PackedChunk(chunk, self.size, len(frame))
        self.size += len(frame)

    async def put(self, blobs: BlobStore, packs: Packs, *, now: Timestamp) -> None:
        """Keep the pack, and enter it with its chunks; nothing happens when it has none.

        Raises:
            StorageError: it cannot be kept or entered.
        """
        if self.chunks:
            content = await in_thread(self._threads, self._writer.finish)
            await blobs.put(self._key, content, {}, durable=True)
            await packs.add(self._key, self.size, list(self.chunks.values()), now=now)

    async def close(self) -> None:
        """Let go of what was written and not put."""
        await in_thread(self._threads, self._writer.close)
