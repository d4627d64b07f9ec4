"""The catalog of an Attic server: its caches, their paths, and the chunks of their NARs."""

from collections.abc import Sequence
from typing import Final

from harmonia_py.attic.database import Database
from harmonia_py.attic.rows import AtticCache, AtticChunk, AtticObject
from harmonia_py.errors import FormatError

_CACHES: Final = """
    select id, name, keypair, is_public, store_dir, priority, upstream_cache_key_names, retention_period
    from cache where deleted_at is null order by name
"""
_OBJECTS: Final = """
    select o.id, o.nar_id, o.store_path, o."references", o.deriver, o.sigs, o.ca, n.state, n.nar_hash, n.nar_size,
        n.num_chunks
    from object o join nar n on n.id = o.nar_id where o.cache_id = $1 and o.id > $2 order by o.id limit $3
"""
_SIZE: Final = """
    select count(*), coalesce(sum(n.nar_size), 0) from object o join nar n on n.id = o.nar_id where o.cache_id = $1
"""
_CHUNKS: Final = """
    select r.seq, c.compression, c.remote_file from chunkref r left join chunk c on c.id = r.chunk_id and c.state = 'V'
    where r.nar_id = $1 order by r.seq
"""


class AtticCatalog:
    """Reads the catalog of an Attic server. Each method raises `StorageError` when the database cannot be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def caches(self) -> Sequence[AtticCache]:
        """The caches that were not deleted, by their names.

        Raises:
            FormatError: a row is none of a cache.
        """
        return [AtticCache.of_row(row) for row in await self._database.rows(_CACHES)]

    async def size(self, cache: AtticCache) -> tuple[int, int]:
        """The number of paths of a cache, and the bytes of their NARs."""
        ((objects, size),) = await self._database.rows(_SIZE, cache.id)
        return int(objects), int(size)

    async def objects(self, cache: AtticCache, after: int, limit: int) -> Sequence[AtticObject]:
        """Up to `limit` paths of a cache, those whose rows follow the one with the id `after`."""
        rows = await self._database.rows(_OBJECTS, cache.id, after, limit)
        return [AtticObject(*row) for row in rows]

    async def chunks(self, found: AtticObject) -> Sequence[AtticChunk]:
        """The parts of its NAR, in their order.

        Raises:
            FormatError: one is lost.
        """
        rows = await self._database.rows(_CHUNKS, found.nar_id)
        if not found.is_whole or [row[0] for row in rows] != list(range(found.num_chunks)):
            raise FormatError("a chunk of its NAR is lost")
        return [AtticChunk.of_row(row) for row in rows]
