"""`Packs` over a database."""

from collections.abc import Collection, Sequence
from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.chunks.catalog import Pack, PackedChunk
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.database.blob_keys import list_as_garbage, named_in, take_from_garbage
from harmonia_py.database.ports import Transactions, scans, writes
from harmonia_py.database.totals import add_pack, add_used
from harmonia_py.database.transaction import Transaction, ask, ask_for_each, ask_many, ask_number, ask_one

_NEXT_PACK: Final = "select coalesce(max(id), 0) + 1 from packs"
_NEXT_CHUNK: Final = "select coalesce(max(id), 0) + 1 from chunks"
_PACK: Final = "insert into packs (id, blob_key, size, look_s, used_size) values ($1, $2, $3, $4, $5)"
# A pack that has less from now on, and may have nothing that is used.
_LOOK_AT_FORMER: Final = """
    update packs set look_s = $1 where coalesce(look_s, 0) = 0
        and id in (select pack_id from chunks where chunk_hash in ($list) and lost_s is not null)
"""
# A chunk of which the bytes were lost has them again; one that was moved is at its new place.
_CHUNK: Final = """
    insert into chunks (id, chunk_hash, frame_size, pack_id, pack_offset) values ($1, $2, $3, $4, $5)
    on conflict (chunk_hash) do update set frame_size = excluded.frame_size, pack_id = excluded.pack_id,
        pack_offset = excluded.pack_offset, lost_s = null
"""
_DROPPED: Final = "select id from recipes where dropped_s is not null and id > $1 order by id limit 1"
_USES: Final = "select chunk_id from chunk_uses where recipe_id = $1 order by chunk_id limit $2"
_LOOK: Final = """
    update packs set look_s = $1 where coalesce(look_s, 0) = 0
        and id in (select pack_id from chunks where id in ($list))
"""
# A pack that is set aside need not be read to go.
_LOOK_AT_UNUSED: Final = """
    update packs set look_s = $2 where id = $1 and look_s > $2 and not exists (
        select 1 from chunks c join chunk_uses u on u.chunk_id = c.id where c.pack_id = packs.id
    )
"""
_NO_USE: Final = "delete from chunk_uses where recipe_id = $1 and chunk_id in ($list)"
_UNUSED_NOW: Final = """
    select pack_id, sum(frame_size) from chunks c where id in ($list)
        and not exists (select 1 from chunk_uses u where u.chunk_id = c.id)
    group by pack_id
"""
_LESS_USED: Final = """
    update packs set used_size = used_size - $2 where id = $1 and used_size >= $2 returning used_size
"""
_NO_RECIPE: Final = "delete from recipes where id = $1"
_TO_LOOK_AT: Final = """
    select id, blob_key, size, used_size from packs where look_s > 0 and look_s <= $1
    order by look_s, id limit $2
"""
# Packs of a catalog that counted no uses: their looks only count, and the 16,000 of 1 TB take 17 hours. Those above may
# give space back, and come first.
_TO_COUNT: Final = "select id, blob_key, size, used_size from packs where look_s = 0 order by id limit $1"
_CHUNKS_IN: Final = """
    select chunk_hash, pack_offset, frame_size, exists (select 1 from chunk_uses u where u.chunk_id = c.id)
    from chunks c where pack_id = $1 order by pack_offset
"""
_STAYS: Final = "update packs set used_size = $2, look_s = $3 where id = $1"
_PACK_AT: Final = "select id, size, used_size from packs where blob_key = $1"
_UNUSED_IN: Final = """
    delete from chunks where pack_id = $1 and not exists (select 1 from chunk_uses u where u.chunk_id = chunks.id)
"""
_ANY_IN: Final = "select 1 from chunks where pack_id = $1 limit 1"
_NO_PACK: Final = "delete from packs where id = $1"
_NOT_BEFORE: Final = "update garbage set not_before_s = $2 where blob_key = $1 and not_before_s < $2"


class SqlPacks(Transactions):
    """`Packs` in rows of the catalog."""

    @writes()
    def add(self, key: str, size: int, chunks: Sequence[PackedChunk], *, now: Timestamp) -> Transaction[None]:
        """As in `Packs`."""
        yield from take_from_garbage(key)
        yield from ask_for_each(_LOOK_AT_FORMER, [one.chunk for one in chunks], now)
        pack, first = (yield from ask_number(_NEXT_PACK)), (yield from ask_number(_NEXT_CHUNK))
        used_size = sum(one.size for one in chunks)
        yield from ask(_PACK, pack, key, size, now, used_size)
        yield from add_pack(size, used_size)
        rows = [(number, one.chunk, one.size, pack, one.offset) for number, one in enumerate(chunks, start=first)]
        yield from ask_many(_CHUNK, rows)

    async def drop_uses(self, limit: int, *, now: Timestamp) -> int:
        """As in `Packs`."""
        if await self._database.scan(lambda: ask_one(_DROPPED, 0)) is None:
            return 0

        def drop() -> Transaction[int]:
            row = yield from ask_one(_DROPPED, 0)
            if row is None:
                return 0
            uses = [use[0] for use in (yield from ask(_USES, row[0], limit))]
            if not uses:
                yield from ask(_NO_RECIPE, row[0])
                return 1
            yield from ask_for_each(_LOOK, uses, now)
            yield from ask_for_each(_NO_USE, uses, row[0])
            for pack, size in (yield from ask_for_each(_UNUSED_NOW, uses)):
                # A pack that was counted before its chunks were used again may have less.
                if (yield from ask_one(_LESS_USED, pack, int(size))) is not None:
                    yield from add_used(-int(size))
                yield from ask(_LOOK_AT_UNUSED, pack, now)
            return len(uses)

        return await self._database.write(drop, durable=False)

    @scans
    def to_look_at(self, limit: int, *, now: Timestamp) -> Transaction[Sequence[Pack]]:
        """As in `Packs`."""
        found = []
        due = yield from ask(_TO_LOOK_AT, now, limit)
        if len(due) < limit:
            due = [*due, *(yield from ask(_TO_COUNT, limit - len(due)))]
        for number, key, size, used_size in due:
            rows = yield from ask(_CHUNKS_IN, number)
            chunks = tuple(PackedChunk(ChunkHash(bytes(one)), at, length, bool(u)) for one, at, length, u in rows)
            found.append(Pack(key, size, chunks, used_size))
        return found

    @writes(durable=False)
    def keep(self, key: str, used_size: int, *, look_at: Timestamp | None = None) -> Transaction[None]:
        """As in `Packs`."""
        row = yield from ask_one(_PACK_AT, key)
        if row is not None:
            yield from ask(_STAYS, row[0], used_size, look_at)
            yield from add_used(used_size - row[2])

    @writes()
    def move(self, old: Collection[str], *, now: Timestamp, garbage_from: Timestamp) -> Transaction[None]:
        """As in `Packs`."""
        for key in sorted(old):
            row = yield from ask_one(_PACK_AT, key)
            if row is None:
                continue
            yield from ask(_UNUSED_IN, row[0])
            if (yield from ask_one(_ANY_IN, row[0])) is not None:
                continue
            yield from ask(_NO_PACK, row[0])
            yield from add_pack(row[1], row[2], sign=-1)
            yield from list_as_garbage([key], now)
            yield from ask(_NOT_BEFORE, key, garbage_from)

    @scans
    def unknown(self, keys: Collection[str]) -> Transaction[Collection[str]]:
        """As in `Packs`."""
        return set(keys) - (yield from named_in(keys, "packs"))
