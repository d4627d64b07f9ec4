"""`Chunks` over a database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from harmonia_py.catalog.caches import MIRROR, CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.chunks.catalog import Due, DueFile, DuePlace, Place
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.database.blob_keys import list_as_garbage, take_from_garbage
from harmonia_py.database.closures import renew_static
from harmonia_py.database.nars import keep_file
from harmonia_py.database.object_rows import FILES, IN_CHUNKS, digits, drop_unused_files, nar_file
from harmonia_py.database.ports import Transactions, reads, scans, writes
from harmonia_py.database.totals import add_chunked, resize_objects
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_for_each, ask_many, ask_number, ask_one
from harmonia_py.database.uploads import receive_file
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
        and f.compression in ('zstd', $2) and not {IN_CHUNKS}
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
_IDS: Final = "select id from chunks where chunk_hash in ($list) and lost_s is null"
_WHOLE_FILE: Final = "select file_size, blob_key from nar_files where file_hash = $1 and quarantined_s is null"
_KEPT_AT: Final = "select blob_key from nar_files where file_hash = $1"
_KEEP_AT: Final = "update nar_files set blob_key = $2 where file_hash = $1"
_NEXT_RECIPE: Final = "select coalesce(max(id), 0) + 1 from recipes"
_HAS_RECIPE: Final = "select 1 from recipes where file_hash = $1 and dropped_s is null"
_RECIPE: Final = "insert into recipes (id, file_hash, former_size) values ($1, $2, $3)"
_USE: Final = "insert into chunk_uses (chunk_id, recipe_id) values ($1, $2) on conflict do nothing"
_TAKE_PLACE: Final = """
    update objects set file_hash = $2, file_size = $3 where file_hash = $1 returning cache_id, hash_part, state
"""
_ITSELF: Final = "c.chunk_hash = $1"
_ALL_OF_ITS_PACK: Final = "c.pack_id = (select pack_id from chunks where chunk_hash = $1)"
_LOSE: Final = "update chunks as c set lost_s = $2 where c.lost_s is null and {chunks}"
_FILES_OF: Final = f"""
    {FILES} where f.file_hash in (
        select distinct r.file_hash from chunks c join chunk_uses u on u.chunk_id = c.id
            join recipes r on r.id = u.recipe_id and r.dropped_s is null
            join nar_files q on q.file_hash = r.file_hash and q.quarantined_s is null
        where {{chunks}} limit $2
    )
"""
# Some chunks are in every file, and a transaction has ten seconds. The next reader is told of the next files.
_FILES_TOLD: Final = 256


class SqlChunks(Transactions):
    """`Chunks` in rows of the catalog."""

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

    def _places(self, chunks: Collection[ChunkHash]) -> Transaction[Mapping[ChunkHash, Place]]:
        """As `places` in `Chunks`."""
        rows = yield from ask_for_each(_PLACES, sorted(chunks))
        return {ChunkHash(bytes(chunk)): Place(pack, offset, size) for chunk, pack, offset, size in rows}

    places = reads(_places)
    scan_places = scans(_places)

    @writes(Topic.OBJECTS, Topic.REMOVALS)
    def replace(self, file: Hash, made: NarFile, chunks: Collection[ChunkHash], *, now: Timestamp) -> Transaction[bool]:
        """As in `Chunks`."""
        return _replace(digits(file), made, sorted(chunks), now)

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
        """As in `Chunks`."""
        ids = {row[0] for row in (yield from ask_for_each(_IDS, sorted(chunks)))}
        if len(ids) != len(set(chunks)):
            return False
        yield from take_from_garbage(file.blob_key)
        yield from receive_file(cache, session, file, findings, now)
        yield from _use_chunks(file, ids, file.file_size)
        return True

    @writes()
    def lose(self, chunk: ChunkHash, *, with_pack: bool, now: Timestamp) -> Transaction[Sequence[NarFile]]:
        """As in `Chunks`."""
        chunks = _ALL_OF_ITS_PACK if with_pack else _ITSELF
        yield from ask(_LOSE.format(chunks=chunks), chunk, now)
        files = yield from ask(_FILES_OF.format(chunks=chunks), chunk, _FILES_TOLD)
        return [nar_file(row) for row in files]


def _replace(file_hash: str, made: NarFile, chunks: Sequence[ChunkHash], now: Timestamp) -> Transaction[bool]:
    yield from take_from_garbage(made.blob_key)
    ids = {row[0] for row in (yield from ask_for_each(_IDS, chunks))}
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
    yield from _use_chunks(made, ids, former[0])
    moved = yield from ask(_TAKE_PLACE, file_hash, made_hash, made.file_size)
    growth = made.file_size - former[0]
    yield from resize_objects([(cache, ObjectState(state), growth) for cache, _, state in moved])
    yield from renew_static([row[:2] for row in moved], now)
    # The cache may have given up the file meanwhile.
    yield from drop_unused_files([file_hash, made_hash], now)
    return True


def _use_chunks(made: NarFile, chunks: Collection[int], former_size: int) -> Transaction[None]:
    """Note of which chunks a file is made, unless it is kept whole, or that is noted already.

    `former_size` is what it took before.
    """
    made_hash = digits(made.file_hash)
    is_made = (yield from ask_one(_KEPT_AT, made_hash)) == (made.blob_key,)
    if is_made and (yield from ask_one(_HAS_RECIPE, made_hash)) is None:
        recipe = yield from ask_number(_NEXT_RECIPE)
        yield from ask(_RECIPE, recipe, made_hash, former_size)
        yield from add_chunked([(former_size, made.file_size)])
        yield from ask_many(_USE, [(number, recipe) for number in sorted(chunks)])


def _hash_parts(own: str, references: str) -> tuple[HashPart, ...]:
    others = (StorePath(reference).hash_part for reference in references.split())
    return tuple(dict.fromkeys([HashPart(own), *others]))
