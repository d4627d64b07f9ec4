"""`Awaiting` over a database."""

from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.objects import StoredObject
from harmonia_py.database.object_rows import OBJECTS, OF_STORE, stored_object
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.removing import forget_objects, note_removals
from harmonia_py.database.transaction import Transaction, ask, ask_one
from harmonia_py.nix.store_path import HashPart

# Most paths come after their references: then there is nothing to write.
_ANY: Final = "select 1 from totals where cache_id = $1 and state = 'waiting' and objects > 0"
_ITSELF: Final = "select hash_part, file_hash from objects where cache_id = $1 and hash_part = $2 and state = 'waiting'"
_HERE: Final = """
    update object_references set elsewhere = 1 where cache_id = $1 and reference = $2 and elsewhere = 0 and exists (
        select 1 from objects o where o.cache_id = object_references.cache_id
            and o.hash_part = object_references.hash_part and o.state = 'waiting'
    )
"""
_READY: Final = f"""
    {OBJECTS} where o.cache_id = $1 and o.state = 'waiting' and o.hash_part in (
        select hash_part from object_references where cache_id = $1 and reference = $2
    ) and not exists (
        select 1 from object_references m
        where m.cache_id = o.cache_id and m.hash_part = o.hash_part and m.elsewhere = 0 and m.reference <> '{OF_STORE}'
    ) order by o.hash_part
"""
_PAGE: Final = f"""
    {OBJECTS} where o.cache_id = $1 and o.state = 'waiting' and o.hash_part > $2 order by o.hash_part limit $3
"""


class SqlAwaiting(Transactions):
    """`Awaiting` in rows of the catalog."""

    async def arrived(self, cache: CacheId, hash_part: HashPart, *, now: Timestamp) -> Sequence[StoredObject]:
        """As in `Awaiting`."""

        def arrived() -> Transaction[list[StoredObject]]:
            itself = yield from ask(_ITSELF, cache, hash_part)
            yield from forget_objects(cache, [(row[0], row[1]) for row in itself], now)
            yield from ask(_HERE, cache, hash_part)
            return [stored_object(row) for row in (yield from ask(_READY, cache, hash_part))]

        if await self._database.read(lambda: ask_one(_ANY, cache)) is None:
            return []
        return await self._database.write(arrived, durable=False)

    @writes(durable=False)
    def forget(self, cache: CacheId, hash_part: HashPart, *, now: Timestamp) -> Transaction[None]:
        """As in `Awaiting`."""
        itself = yield from ask(_ITSELF, cache, hash_part)
        yield from note_removals(cache, [row[0] for row in itself], now, why="refused")
        yield from forget_objects(cache, [(row[0], row[1]) for row in itself], now)

    @reads
    def page(self, cache: CacheId, after: HashPart | None, limit: int) -> Transaction[Sequence[StoredObject]]:
        """As in `Awaiting`."""
        if (yield from ask_one(_ANY, cache)) is None:
            return []
        return [stored_object(row) for row in (yield from ask(_PAGE, cache, after or "", limit))]
