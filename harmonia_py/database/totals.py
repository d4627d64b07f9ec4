"""Running totals, kept up to date by the transactions that change them: no question for a size reads all objects.

Writers take turns over all processes, so that a row which every publication changes holds up none of them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.objects import ObjectState, Size
from harmonia_py.catalog.repairs import WrongTotal
from harmonia_py.chunks.work import ChunkFigures
from harmonia_py.database.transaction import Row, Statement, Transaction, ask, ask_many, ask_number

_NO_CACHE: Final = CacheId(0)
_STORED: Final = "stored"
_CHUNKED: Final = "chunked"
_PACKS: Final = "packs"
_USED: Final = "used"
_SENT: Final = "sent"

_ADD: Final = """
    insert into totals (cache_id, state, objects, size) values ($1, $2, $3, $4)
    on conflict (cache_id, state) do update set
        objects = totals.objects + excluded.objects, size = totals.size + excluded.size
"""
_OF_CACHE: Final = "select cache_id, state, objects, size from totals where cache_id = $1"
_OF_ALL: Final = "select 0, state, sum(objects), sum(size) from totals group by state"
# An expected file that has no NAR was left behind by a process that was killed (catalog/arrivals.py).
_INCOMING: Final = """
    select coalesce(sum(f.file_size), 0) from received r join nar_files f on f.file_hash = r.file_hash
    where r.cache_id = $1 and (r.state = 'received' or f.nar_hash is null)
        and not exists (select 1 from objects o where o.cache_id = r.cache_id and o.file_hash = r.file_hash)
"""
_CHUNKS_COUNTED: Final = """
    select 0, 'chunked', count(*), coalesce(sum(former_size), 0) from recipes where dropped_s is null
    union all select 0, 'packs', count(*), coalesce(sum(size), 0) from packs
    union all select 0, 'used', 0, coalesce(sum(used_size), 0) from packs
    union all select 0, 'sent', count(*), coalesce(sum(f.file_size), 0)
        from recipes r join nar_files f on f.file_hash = r.file_hash where r.dropped_s is null
"""
_COUNTED: Final = f"""
    select cache_id, state, count(*), sum(file_size) from objects group by cache_id, state
    union all select 0, 'stored', count(*), coalesce(sum(file_size), 0) from nar_files
    union all {_CHUNKS_COUNTED}
"""
_ALL: Final = "select cache_id, state, objects, size from totals"


def add_objects(cache: CacheId, state: ObjectState, sizes: Sequence[int], *, sign: int = 1) -> Transaction[None]:
    """Count objects of these sizes that are in this state from now on; with the sign -1, that are not any more."""
    if sizes:
        yield from ask(_ADD, cache, state.value, sign * len(sizes), sign * sum(sizes))


def one_more_object(cache: CacheId, state: ObjectState, size: int) -> Statement:
    """Counts an object of this size."""
    return Statement(_ADD, (cache, state.value, 1, size))


def one_more_file(size: int) -> Statement:
    """Counts a file of this size."""
    return Statement(_ADD, (_NO_CACHE, _STORED, 1, size))


def move_objects(cache: CacheId, former: ObjectState, new: ObjectState, sizes: Sequence[int]) -> Transaction[None]:
    """Count objects of these sizes in another state."""
    yield from add_objects(cache, former, sizes, sign=-1)
    yield from add_objects(cache, new, sizes)


def resize_objects(objects: Iterable[tuple[CacheId, ObjectState, int]]) -> Transaction[None]:
    """Count by how much objects have grown, each given with its cache and state."""
    yield from ask_many(_ADD, [(cache, state.value, 0, growth) for cache, state, growth in objects])


def add_files(sizes: Sequence[int], *, sign: int = 1) -> Transaction[None]:
    """Count files of these sizes that there are from now on; with the sign -1, that there are not any more."""
    if sizes:
        yield from ask(_ADD, _NO_CACHE, _STORED, sign * len(sizes), sign * sum(sizes))


def add_chunked(sizes: Sequence[tuple[int, int]], *, sign: int = 1) -> Transaction[None]:
    """Count files that are made of chunks from now on; with the sign -1, not any more.

    Args:
        sizes: of each, what it took before and what it has when it is sent.
        sign: 1 or -1.
    """
    if sizes:
        for state, these in zip((_CHUNKED, _SENT), zip(*sizes, strict=True), strict=True):
            yield from ask(_ADD, _NO_CACHE, state, sign * len(sizes), sign * sum(these))


def add_pack(size: int, used_size: int, *, sign: int = 1) -> Transaction[None]:
    """Count a pack, and the bytes of it that are used; with the sign -1, not any more."""
    yield from ask(_ADD, _NO_CACHE, _PACKS, sign, sign * size)
    yield from add_used(sign * used_size)


def add_used(growth: int) -> Transaction[None]:
    """Count by how much has grown what is used of packs."""
    yield from ask(_ADD, _NO_CACHE, _USED, 0, growth)


def chunk_figures() -> Transaction[ChunkFigures]:
    """As `ChunkWork.figures`."""
    counts = _by_state((yield from ask(_OF_CACHE, _NO_CACHE)))
    (files, former_size), (packs, pack_size) = counts[_NO_CACHE, _CHUNKED], counts[_NO_CACHE, _PACKS]
    used_size, sent_size = counts[_NO_CACHE, _USED][1], counts[_NO_CACHE, _SENT][1]
    return ChunkFigures(files, former_size, packs, pack_size, used_size, sent_size)


def size_of(cache: CacheId | None) -> Transaction[Size]:
    """As `ObjectIndex.size`."""
    of = _NO_CACHE if cache is None else cache
    counts = _by_state((yield from (ask(_OF_ALL) if cache is None else ask(_OF_CACHE, cache))))
    published, published_size = counts[of, ObjectState.PUBLISHED.value]
    condemned, condemned_size = counts[of, ObjectState.CONDEMNED.value]
    waiting, incoming = counts[of, ObjectState.WAITING.value]
    if cache is None:
        total, incoming = counts[of, _STORED][1], 0
    else:
        total = published_size + condemned_size
        incoming += yield from ask_number(_INCOMING, cache)
    return Size(
        objects=published + condemned,
        size=total,
        published_size=published_size,
        condemned=condemned,
        condemned_size=condemned_size,
        waiting=waiting,
        incoming_size=incoming,
        chunked_size=counts[of, _SENT][1],
        pack_size=counts[of, _PACKS][1],
    )


def wrong_totals() -> Transaction[list[WrongTotal]]:
    """As `Repairs.wrong_totals`."""
    told, counted = _by_state((yield from ask(_ALL))), _by_state((yield from ask(_COUNTED)))
    return [
        WrongTotal(of[0] or None, of[1], told[of], counted[of])
        for of in sorted(told | counted)
        if told[of] != counted[of]
    ]


def count_anew() -> Transaction[None]:
    """As `Repairs.count_anew`."""
    counted = _by_state((yield from ask(_COUNTED)))
    yield from ask("delete from totals")
    yield from ask_many(_ADD, [(*of, *counts) for of, counts in sorted(counted.items())])


def wrong_chunk_totals() -> Transaction[list[tuple[CacheId, str, int, int]]]:
    """The running totals of chunks that are wrong, as rows of what their counts and bytes lack."""
    told, counted = _by_state((yield from ask(_ALL))), _by_state((yield from ask(_CHUNKS_COUNTED)))
    lacking = ((*of, count - told[of][0], size - told[of][1]) for of, (count, size) in counted.items())
    return [row for row in lacking if any(row[2:])]


def correct_chunk_totals() -> Transaction[None]:
    """As `ChunkWork.count_anew`."""
    yield from ask_many(_ADD, (yield from wrong_chunk_totals()))


def _by_state(rows: Iterable[Row]) -> defaultdict[tuple[CacheId, str], tuple[int, int]]:
    """Counts and bytes, by the cache and the state; zeros where there is no row."""
    counts = {(CacheId(cache), state): (int(count), int(size)) for cache, state, count, size in rows}
    return defaultdict(lambda: (0, 0), counts)
