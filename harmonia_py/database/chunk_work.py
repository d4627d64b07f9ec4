"""`ChunkWork` over a database."""

from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.chunks.catalog import DuePlace
from harmonia_py.chunks.work import ChunkFigures, LastLook
from harmonia_py.database.object_rows import IN_CHUNKS
from harmonia_py.database.ports import Transactions, reads, scans, writes
from harmonia_py.database.progress import note, noted
from harmonia_py.database.totals import chunk_figures, correct_chunk_totals, wrong_chunk_totals
from harmonia_py.database.transaction import Transaction, ask_number, ask_row

_WAITING: Final = """
    select count(*) from (
        select 1 from objects where cache_id = $1 and state = 'published' and aged_from_s <= $2
            and (aged_from_s, hash_part) > ($3, $4)
        order by aged_from_s, hash_part limit $5
    ) waiting
"""
_CHUNKED: Final = f"""
    select count(*) from objects o join nar_files f on f.file_hash = o.file_hash
    where o.cache_id = $1 and {IN_CHUNKS}
"""
# `cross join`: without statistics SQLite would read all files in chunks, and look for the objects of each.
_CONDEMNED: Final = f"""
    select coalesce(sum(o.file_size), 0) from objects o cross join nar_files f
    where o.state = 'condemned' and f.file_hash = o.file_hash and {IN_CHUNKS}
"""
_SET_ASIDE: Final = "select coalesce(sum(size), 0), coalesce(sum(used_size), 0) from packs where look_s > $1"
_JOB: Final = "deduplication"


class SqlChunkWork(Transactions):
    """`ChunkWork` in rows of the catalog."""

    @reads
    def figures(self) -> Transaction[ChunkFigures]:
        """As in `ChunkWork`."""
        return chunk_figures()

    @reads
    def set_aside(self, now: Timestamp) -> Transaction[tuple[int, int]]:
        """As in `ChunkWork`."""
        size, used_size = yield from ask_row(_SET_ASIDE, now)
        return int(size), int(used_size)

    async def count_anew(self) -> None:
        """As in `ChunkWork`."""
        # Writers do not wait for a count that finds nothing.
        if await self._database.scan(wrong_chunk_totals):
            await self._database.write(correct_chunk_totals, durable=False)

    @scans
    def waiting(self, cache: CacheId, unused_since: Timestamp, after: DuePlace | None, limit: int) -> Transaction[int]:
        """As in `ChunkWork`."""
        return ask_number(_WAITING, cache, unused_since, *(after or (Timestamp(-1), "")), limit)

    @scans
    def condemned(self) -> Transaction[int]:
        """As in `ChunkWork`."""
        return ask_number(_CONDEMNED)

    @scans
    def chunked(self, cache: CacheId) -> Transaction[int]:
        """As in `ChunkWork`."""
        return ask_number(_CHUNKED, cache)

    @writes(durable=False)
    def note(self, look: LastLook) -> Transaction[None]:
        """As in `ChunkWork`."""
        yield from note(_JOB, look)

    @reads
    def last(self) -> Transaction[LastLook | None]:
        """As in `ChunkWork`."""
        return noted(_JOB, LastLook)
