"""`ChunkRebuilding` over a database."""

from collections.abc import Collection
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.database.chunks import CHUNK_IDS, use_chunks
from harmonia_py.database.object_rows import take_from_garbage
from harmonia_py.database.transaction import Topic, Transaction, Transactions, ask_for_each, scans, writes
from harmonia_py.database.uploads import receive_file

_PACKS_AT: Final = "select blob_key from packs where blob_key in ($list)"


class SqlChunkRebuilding(Transactions):
    """`ChunkRebuilding` in rows of the catalog."""

    @scans
    def unnamed_packs(self, keys: Collection[str]) -> Transaction[Collection[str]]:
        """As in `ChunkRebuilding`."""
        return set(keys) - {row[0] for row in (yield from ask_for_each(_PACKS_AT, sorted(keys)))}

    @writes(Topic.OBJECTS)
    def received(
        self,
        cache: CacheId,
        session: str,
        file: NarFile,
        chunks: Collection[ChunkHash],
        *,
        findings: str,
        now: Timestamp,
    ) -> Transaction[bool]:
        """As in `ChunkRebuilding`."""
        ids = {row[0] for row in (yield from ask_for_each(CHUNK_IDS, sorted(chunks)))}
        if len(ids) != len(set(chunks)):
            return False
        yield from take_from_garbage(file.blob_key)
        yield from receive_file(cache, session, file, findings, now)
        yield from use_chunks(file, ids, file.file_size)
        return True
