"""`Chunks` and `Packs` over a database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from harmonia_py.catalog.caches import MIRROR, CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.chunks.catalog import Due, DueFile, DuePlace, Pack, PackedChunk, Place
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.database.closures import renew_static
from harmonia_py.database.nars import FILES, keep_file
from harmonia_py.database.object_rows import digits, drop_unused_files, list_as_garbage, nar_file, take_from_garbage
from harmonia_py.database.totals import add_chunked, add_pack, add_used, resize_objects
from harmonia_py.database.transaction import (
    Topic,
    Transaction,
    Transactions,
    ask,
    ask_for_each,
    ask_many,
    ask_number,
    ask_one,
    ask_row,
    reads,
    scans,
    writes,
)
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, StorePath

# The objects that come next, which of them have a file that is to become chunks is asked for after that: most have it
# already. A file that another cache has as well, which wants it whole, stays whole.
_NEXT: Final = """
    select aged_from_s, hash_part, file_hash, store_references from objects
    where cache_id = $1 and state = 'published' and aged_from_s <= $2 and (aged_from_s, hash_part) > ($3, $4)
    order by aged_from_s, hash_part limit $5
"""
_WHOLE: Final = f"""
    {FILES} where f.file_hash in ($list) and f.quarantined_s is null and n.nar_size is not null
        and f.compression in ('zstd', $2) and not (f.blob_key >= 'recipes/' and f.blob_key < 'recipes0')
        and not exists (
            select 1 from objects o where o.file_hash = f.file_hash and (o.cache_id not in ($caches)
                or o.aged_from_s > $1)
        )
"""
_KNOWN: Final = "select chunk_hash, frame_size from chunks where chunk_hash in ($list) and lost_s is null"
_PLACES: Final = """
    select c.chunk_hash, p.blob_key, c.pack_offset, c.frame_size from chunks c join packs p on p.id = c.pack_id
    where c.chunk_hash in ($list) and c.lost_s is null
"""
CHUNK_IDS: Final = "select id from chunks where chunk_hash in ($list) and lost_s is null"
_WHOLE_FILE: Final = "select file_size, blob_key from nar_files where file_hash = $1 and quarantined_s is null"
_KEPT_AT: Final = "select blob_key from nar_files where file_hash = $1"
_KEEP_AT: Final = "update nar_files set blob_key = $2 where file_hash = $1"
_NEXT_RECIPE: Final = "select coalesce(max(id), 0) + 1 from recipes"
_NEXT_PACK: Final = "select coalesce(max(id), 0) + 1 from packs"
_NEXT_CHUNK: Final = "select coalesce(max(id), 0) + 1 from chunks"
_HAS_RECIPE: Final = "select 1 from recipes where file_hash = $1 and dropped_s is null"
_RECIPE: Final = "insert into recipes (id, file_hash, former_size) values ($1, $2, $3)"
_USE: Final = "insert into chunk_uses (chunk_id, recipe_id) values ($1, $2) on conflict do nothing"
_TAKE_PLACE: Final = """
    update objects set file_hash = $2, file_size = $3 where file_hash = $1 returning cache_id, hash_part, state
"""
_LOSE: Final = "update chunks set lost_s = $2 where chunk_hash = $1 and lost_s is null"
_LOSE_PACK: Final = """
    update chunks set lost_s = $2 where lost_s is null
        and pack_id = (select pack_id from chunks where chunk_hash = $1)
"""
_FILES_OF: Final = f"""
    {FILES} where f.quarantined_s is null and f.file_hash in (
        select distinct r.file_hash from chunks c join chunk_uses u on u.chunk_id = c.id
            join recipes r on r.id = u.recipe_id and r.dropped_s is null
        where c.chunk_hash = $1
    ) limit $2
"""
_FILES_OF_PACK: Final = f"""
    {FILES} where f.quarantined_s is null and f.file_hash in (
        select distinct r.file_hash from chunks c join chunk_uses u on u.chunk_id = c.id
            join recipes r on r.id = u.recipe_id and r.dropped_s is null
        where c.pack_id = (select pack_id from chunks where chunk_hash = $1)
    ) limit $2
"""
# The others are found when they are read.
_FILES_TOLD: Final = 256
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


class SqlChunks(Transactions):
    """`Chunks` and `Packs` in rows of the catalog."""

    @scans
    def due(
        self, cache: CacheId, caches: Collection[CacheId], unused_since: Timestamp, after: DuePlace | None, limit: int
    ) -> Transaction[Due]:
        """As in `Chunks`."""
        # Numbers, which need no quoting; their list is as long as the configuration says.
        whole = _WHOLE.replace("$caches", ", ".join(str(int(one)) for one in sorted(caches)))
        # The URL of what an upstream has says that it is bare, and clients remember it.
        compression = "zstd" if cache == MIRROR else "none"
        place = after or (Timestamp(-1), "")
        rows = yield from ask(_NEXT, cache, unused_since, *place, limit)
        hash_parts = {file_hash: _hash_parts(own, references) for _, own, file_hash, references in rows}
        files = yield from ask_for_each(whole, sorted(hash_parts), unused_since, compression)
        found = {row[0]: DueFile(nar_file(row), hash_parts[row[0]]) for row in files}
        last = (Timestamp(rows[-1][0]), rows[-1][1]) if rows else after
        return Due([found[file] for file in hash_parts if file in found], last, len(rows) < limit)

    @scans
    def known(self, chunks: Collection[ChunkHash]) -> Transaction[Mapping[ChunkHash, int]]:
        """As in `Chunks`."""
        rows = yield from ask_for_each(_KNOWN, sorted(chunks))
        return {ChunkHash(bytes(chunk)): size for chunk, size in rows}

    @reads
    def places(self, chunks: Collection[ChunkHash]) -> Transaction[Mapping[ChunkHash, Place]]:
        """As in `Chunks`."""
        return _places(chunks)

    @scans
    def scan_places(self, chunks: Collection[ChunkHash]) -> Transaction[Mapping[ChunkHash, Place]]:
        """As in `Chunks`."""
        return _places(chunks)

    @writes(Topic.OBJECTS, Topic.REMOVALS)
    def replace(self, file: Hash, made: NarFile, chunks: Collection[ChunkHash], *, now: Timestamp) -> Transaction[bool]:
        """As in `Chunks`."""
        return _replace(digits(file), made, sorted(chunks), now)

    @writes()
    def lose(self, chunk: ChunkHash, *, with_pack: bool, now: Timestamp) -> Transaction[Sequence[NarFile]]:
        """As in `Chunks`."""
        yield from ask(_LOSE_PACK if with_pack else _LOSE, chunk, now)
        files = yield from ask(_FILES_OF_PACK if with_pack else _FILES_OF, chunk, _FILES_TOLD)
        return [nar_file(row) for row in files]

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


def _places(chunks: Collection[ChunkHash]) -> Transaction[dict[ChunkHash, Place]]:
    rows = yield from ask_for_each(_PLACES, sorted(chunks))
    return {ChunkHash(bytes(chunk)): Place(pack, offset, size) for chunk, pack, offset, size in rows}


def _replace(file_hash: str, made: NarFile, chunks: Sequence[ChunkHash], now: Timestamp) -> Transaction[bool]:
    yield from take_from_garbage(made.blob_key)
    ids = {row[0] for row in (yield from ask_for_each(CHUNK_IDS, chunks))}
    former = yield from ask_one(_WHOLE_FILE, file_hash)
    if len(ids) != len(chunks) or former is None:
        yield from list_as_garbage([made.blob_key], now)
        return False
    made_hash = digits(made.file_hash)
    if made_hash == file_hash:
        # Such a file comes from `export`, pushed again: cutting a NAR gives the same file each time.
        yield from ask(_KEEP_AT, file_hash, made.blob_key)
        yield from list_as_garbage([former[1]], now)
    else:
        yield from keep_file(made, now)
    yield from use_chunks(made, ids, former[0])
    moved = yield from ask(_TAKE_PLACE, file_hash, made_hash, made.file_size)
    growth = made.file_size - former[0]
    yield from resize_objects([(cache, ObjectState(state), growth) for cache, _, state in moved])
    yield from renew_static([row[:2] for row in moved], now)
    # The cache may have given up the file meanwhile.
    yield from drop_unused_files([file_hash, made_hash], now)
    return True


def use_chunks(made: NarFile, chunks: Collection[int], former_size: int) -> Transaction[None]:
    """Note of which chunks a file is made, unless it is kept whole, or that is noted already.

    `former_size` is what it took before.
    """
    made_hash = digits(made.file_hash)
    (kept_at,) = yield from ask_row(_KEPT_AT, made_hash)
    if kept_at == made.blob_key and (yield from ask_one(_HAS_RECIPE, made_hash)) is None:
        recipe = yield from ask_number(_NEXT_RECIPE)
        yield from ask(_RECIPE, recipe, made_hash, former_size)
        yield from add_chunked([(former_size, made.file_size)])
        yield from ask_many(_USE, [(number, recipe) for number in sorted(chunks)])


def _hash_parts(own: str, references: str) -> tuple[HashPart, ...]:
    others = (StorePath(reference).hash_part for reference in references.split())
    return tuple(dict.fromkeys([HashPart(own), *others]))
