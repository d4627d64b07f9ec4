"""NARs that are kept as chunks, put together: opened, made, and their packs looked after."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from harmonia_py.cache.source import Download
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.quarantine import Quarantine
from harmonia_py.catalog.stored import OpenBlob
from harmonia_py.chunks.catalog import DueFile
from harmonia_py.chunks.chunked_files import IN_MEMORY, OPEN_FILES, ChunkedFiles, NoteLostChunk
from harmonia_py.chunks.deduplication import MakeChunks
from harmonia_py.chunks.digests import ChunkedDigests
from harmonia_py.chunks.growing_pack import ChunkStorage
from harmonia_py.chunks.pack_collector import GRACE_SECONDS, USED_SHARE, PackCollector
from harmonia_py.chunks.rebuilding import RebuiltChunks
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.chunks.work import Packed
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digests
from harmonia_py.contents.spool import Spool
from harmonia_py.database.chunks import SqlChunks
from harmonia_py.database.packs import SqlPacks
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.wiring.files import OpenFiles

if TYPE_CHECKING:
    from harmonia_py.chunks.packing import Packer


def chunked_files(chunks: SqlChunks, files: OpenFiles, threads: Threads, note_lost: NoteLostChunk) -> ChunkedFiles:
    """The files that are made of chunks, whose packs and recipes are among `files`."""
    return ChunkedFiles(
        chunks,
        blobs=files.blobs,
        open_pack=files.open_ranges,
        sizes=OPEN_FILES if files.bucket is None else IN_MEMORY,
        threads=threads,
        note_lost=note_lost,
    )


class Chunking:
    """The things that a process has open for chunks. They belong to the event loop in which this is made.

    Args:
        chunks: the rows of chunks.
        packs: the rows of packs.
        files: have recipes and packs among them.
        spool: for packs that are being written.
        threads: read recipes, for downloads.
        quarantine: is told of files that lack a chunk.
        now: the time as the catalog has it.

    Attributes:
        files: opens files that are made of chunks.
    """

    def __init__(
        self,
        chunks: SqlChunks,
        packs: SqlPacks,
        *,
        files: OpenFiles,
        spool: Spool,
        threads: Threads,
        quarantine: Quarantine,
        now: Callable[[], Timestamp],
    ) -> None:
        self._opened = files
        self._quarantine = quarantine
        self.files = chunked_files(chunks, files, threads, self._note_lost)
        self._storage = ChunkStorage(
            chunks=chunks,
            packs=packs,
            blobs=files.blobs,
            spool=spool,
            files=self.files,
            threads=Threads(Pool.CHUNK),
            now=now,
        )

    async def aclose(self) -> None:
        """End the threads that make chunks."""
        await self._storage.threads.aclose()

    def packer(self, open_file: OpenBlob) -> "Packer":
        """A packer of files that `open_file` opens."""
        # The library that cuts is an extra.
        from harmonia_py.chunks.packing import Packer  # noqa: PLC0415

        return Packer(self._storage, open_file)

    async def open_whole(self, key: str) -> Download | None:
        """The file under a key, which is not that of a recipe."""
        blob = await self._storage.blobs.open(BlobKey(key))
        return None if blob is None else blob.download(key)

    def pack_collector(
        self,
        *,
        used_share: Callable[[], float] = lambda: USED_SHARE,
        grace_seconds: int = GRACE_SECONDS,
        now: Callable[[], Timestamp] | None = None,
    ) -> PackCollector:
        """The collector of packs, with its settings."""
        storage = replace(self._storage, now=now or self._storage.now)
        return PackCollector(storage, self._note_lost, used_share, grace_seconds)

    def rebuilt(self, report: Callable[[int], object]) -> RebuiltChunks:
        """The rebuild of chunks that the catalog has lost; `report` is told of bytes that are read."""
        return RebuiltChunks(self._storage, report)

    @asynccontextmanager
    async def digests(self) -> AsyncIterator[Digests]:
        """The digests of all files, also of those that are made of chunks."""
        async with self._opened.digests(1) as digests:
            yield ChunkedDigests(digests, self.files, self._storage.threads)

    async def _note_lost(self, chunk: ChunkHash, reason: str, with_pack: bool) -> None:  # noqa: FBT001  # a port
        for file in await self._storage.chunks.lose(chunk, with_pack=with_pack, now=self._storage.now()):
            await self._quarantine.note(file, f"a chunk of it is lost: {reason}")


def chunk_maker(chunking: Chunking, open_file: OpenBlob) -> MakeChunks:
    """The part of the job that makes chunks of files, which `open_file` opens."""

    async def make_chunks(due: Sequence[DueFile], until: float) -> tuple[int, Packed]:
        if not due:
            return 0, Packed()
        packer, looked_at = chunking.packer(open_file), 0
        try:
            for file in due:
                if time.monotonic() > until:
                    break
                await packer.pack(file)
                looked_at += 1
            return looked_at, await packer.flush()
        finally:
            await packer.close()

    return make_chunks
