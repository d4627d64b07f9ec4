"""`ChunkWork` over a database."""

from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.chunks.catalog import DuePlace
from harmonia_py.chunks.work import ChunkFigures, LastLook
from harmonia_py.database.progress import note, noted
from harmonia_py.database.totals import chunk_figures, correct_chunk_totals, wrong_chunk_totals
from harmonia_py.database.transaction import Database, ask_one

_WAITING: Final = """
    select count(*) from (
        select 1 from objects where cache_id = $1 and state = 'published' and aged_from_s <= $2
            and (aged_from_s, hash_part) > ($3, $4)
        order by aged_from_s, hash_part limit $5
    ) waiting
"""
_IN_CHUNKS: Final = f"f.blob_key >= '{RECIPES}' and f.blob_key < '{RECIPES[:-1]}0'"
_CHUNKED: Final = f"""
    select count(*) from objects o join nar_files f on f.file_hash = o.file_hash
    where o.cache_id = $1 and {_IN_CHUNKS}
"""
# `cross join`: without statistics SQLite would read all files in chunks, and look for the objects of each.
_CONDEMNED: Final = f"""
    select coalesce(sum(o.file_size), 0) from objects o cross join nar_files f
    where o.state = 'condemned' and f.file_hash = o.file_hash and {_IN_CHUNKS}
"""
_SET_ASIDE: Final = "select coalesce(sum(size), 0), coalesce(sum(used_size), 0) from packs where look_s > $1"
_JOB: Final = "deduplication"


class SqlChunkWork:
    """`ChunkWork` in rows of the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def figures(self) -> ChunkFigures:
        """As in `ChunkWork`."""
        return await self._database.read(chunk_figures)

    async def set_aside(self, now: Timestamp) -> tuple[int, int]:
        """As in `ChunkWork`."""
        row = await self._database.read(lambda: ask_one(_SET_ASIDE, now))
        assert row is not None
        return int(row[0]), int(row[1])

    async def count_anew(self) -> None:
        """As in `ChunkWork`."""
        # Writers do not wait for a count that finds nothing.
        if await self._database.scan(wrong_chunk_totals):
            await self._database.write(correct_chunk_totals, durable=False)

    async def waiting(self, cache: CacheId, unused_since: Timestamp, after: DuePlace | None, limit: int) -> int:
        """As in `ChunkWork`."""
        return await self._number(_WAITING, cache, unused_since, *(after or (Timestamp(-1), "")), limit)

    async def condemned(self) -> int:
        """As in `ChunkWork`."""
        return await self._number(_CONDEMNED)

    async def chunked(self, cache: CacheId) -> int:
        """As in `ChunkWork`."""
        return await self._number(_CHUNKED, cache)

    async def _number(self, statement: str, *values: str | int) -> int:
        row = await self._database.scan(lambda: ask_one(statement, *values))
        assert row is not None
        return int(row[0])

    async def note(self, look: LastLook) -> None:
        """As in `ChunkWork`."""
        await self._database.write(lambda: note(_JOB, look), durable=False)

    async def last(self) -> LastLook | None:
        """As in `ChunkWork`."""
        return await self._database.read(lambda: noted(_JOB, LastLook))
