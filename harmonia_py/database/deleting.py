"""`Deletions` over a database."""

from collections.abc import Collection
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.deletion import Deleted, Obstacle
from harmonia_py.database.keepers import PINS_OF, SESSIONS_OF
from harmonia_py.database.ports import Transactions, writes
from harmonia_py.database.removing import forget_objects, note_removals
from harmonia_py.database.transaction import Row, Topic, Transaction, ask, ask_for_each
from harmonia_py.nix.store_path import HashPart, StorePath

# Referrers that are named to the person who wants to delete the path that they reference.
_REFERRERS: Final = 10

_THESE: Final = """
    select hash_part, name, file_hash, file_size from objects where cache_id = $1 and hash_part in ($list)
"""
# Also those that are condemned: readers see them, and one that waits was told that this reference is here.
_REFERRERS_OF: Final = """
    select q.hash_part, q.name from object_references r
        join objects q on q.cache_id = r.cache_id and q.hash_part = r.hash_part
    where r.cache_id = $1 and r.reference = $2 order by q.hash_part limit $3
"""
_REFERENCES: Final = """
    select distinct r.reference from object_references r
        join objects o on o.cache_id = r.cache_id and o.hash_part = r.reference
    where r.cache_id = $1 and r.hash_part in ($list)
"""


class SqlDeletions(Transactions):
    """`Deletions` in rows of the catalog."""

    @writes(Topic.OBJECTS, Topic.REMOVALS)
    def delete(
        self,
        cache: CacheId,
        hash_parts: Collection[HashPart],
        *,
        deleted_by: str,
        despite_pushes: bool = False,
        now: Timestamp,
    ) -> Transaction[Deleted]:
        """As in `Deletions`."""
        rows: list[Row] = []
        obstacles: list[Obstacle] = []
        for row in dict.fromkeys((yield from ask_for_each(_THESE, sorted(hash_parts), cache))):
            obstacle = yield from _obstacle(cache, _path(row[0], row[1]), now, despite_pushes=despite_pushes)
            if obstacle is None:
                rows.append(row)
            else:
                obstacles.append(obstacle)
        going = [row[0] for row in rows]
        references = yield from ask_for_each(_REFERENCES, going, cache)
        yield from note_removals(cache, going, now, principal=deleted_by, action="delete")
        yield from forget_objects(cache, [(row[0], row[2]) for row in rows], now)
        return Deleted(
            paths=tuple(_path(row[0], row[1]) for row in rows),
            size=sum(row[3] for row in rows),
            obstacles=tuple(obstacles),
            references=frozenset(HashPart(row[0]) for row in references),
        )


def _obstacle(cache: CacheId, path: StorePath, now: Timestamp, *, despite_pushes: bool) -> Transaction[Obstacle | None]:
    hash_part = path.hash_part
    referrers = yield from ask(_REFERRERS_OF, cache, hash_part, _REFERRERS)
    pins = yield from ask(PINS_OF, cache, hash_part, now)
    sessions = [] if despite_pushes else (yield from ask(SESSIONS_OF, cache, hash_part, now))
    if not referrers and not pins and not sessions:
        return None
    return Obstacle(
        path=path,
        referrers=tuple(_path(*row) for row in referrers),
        pins=tuple(row[0] for row in pins),
        sessions=tuple(row[0] for row in sessions),
    )


def _path(hash_part: str, name: str) -> StorePath:
    return StorePath(f"{hash_part}-{name}")
