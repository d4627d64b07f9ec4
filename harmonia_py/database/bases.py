"""`Bases` over a database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from harmonia_py.catalog.bases import MAX_BASES, Base, OtherVersions
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.database.object_rows import IN_CHUNKS, LEASE
from harmonia_py.database.ports import Transactions, scans
from harmonia_py.database.transaction import Row, Transaction, ask, ask_for_each, ask_many
from harmonia_py.database.uploads import live_on
from harmonia_py.nix.store_path import HashPart

_SEEN: Final = "state = 'published' and broken_s is null"
_COLUMNS: Final = "select hash_part, name, pushed_s, file_hash from objects"
_RECIPES: Final = f"""
    join nar_files f on f.file_hash = found.file_hash
    where {IN_CHUNKS} and f.quarantined_s is null
"""


def _first_of(objects: str) -> str:
    columns = "found.hash_part, f.blob_key, found.name, found.pushed_s"
    return f"select {columns} from ({_COLUMNS} where {objects}) found {_RECIPES}"


# Builds of the last day are whole files in most caches, however many there are: they are passed over.
_LOOKED_AT: Final = 256
_SAME: Final = _first_of(f"cache_id = $1 and name = $2 and {_SEEN} order by pushed_s desc limit {_LOOKED_AT}")
_BEFORE: Final = _first_of(
    f"cache_id = $1 and name >= $3 and name < $2 and {_SEEN} order by name desc, pushed_s desc limit {_LOOKED_AT}"
)
_BEHIND: Final = _first_of(
    f"cache_id = $1 and name > $2 and name < $3 and {_SEEN} order by name, pushed_s limit {_LOOKED_AT}"
)
# Of each kind: a rebuild shares nearly all with the build before, and a release with the release before.
_MOST_SAME: Final = 4
_MOST_BEFORE: Final = 2
_STILL: Final = f"select hash_part from objects where cache_id = $1 and hash_part in ($list) and {_SEEN}"
_FIND: Final = f"""
    select found.hash_part, f.blob_key from (
        select hash_part, file_hash from objects where cache_id = $1 and hash_part in ($list)
            and state <> 'waiting' and broken_s is null
    ) found {_RECIPES}
"""


class SqlBases(Transactions):
    """`Bases` in rows of the catalog."""

    async def like(
        self, cache: CacheId, session: str, names: Collection[str], *, now: Timestamp
    ) -> Mapping[str, Sequence[Base]]:
        """As in `Bases`."""

        def like() -> Transaction[dict[str, list[Base]]]:
            found = {}
            for name in names:
                found[name] = yield from _like(cache, name)
            return found

        def lease() -> Transaction[frozenset[str]]:
            yield from live_on(cache, session, now)
            still = [row[0] for row in (yield from ask_for_each(_STILL, wanted, cache))]
            yield from ask_many(LEASE, [(session, cache, hash_part) for hash_part in sorted(still)])
            return frozenset(still)

        found = await self._database.scan(like)
        wanted = sorted({base.hash_part for bases in found.values() for base in bases})
        if not wanted:
            return found
        kept = await self._database.write(lease, durable=False)
        return {name: [base for base in bases if base.hash_part in kept] for name, bases in found.items()}

    @scans
    def find(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Transaction[Sequence[Base]]:
        """As in `Bases`."""
        rows = yield from ask_for_each(_FIND, sorted(hash_parts), cache)
        return [Base(HashPart(hash_part), key) for hash_part, key in rows]


def _like(cache: CacheId, name: str) -> Transaction[list[Base]]:
    # The database may give the rows of a join in any order.
    same = yield from ask(_SAME, cache, name)
    rows = sorted(same, key=_pushed, reverse=True)[:_MOST_SAME]
    others = OtherVersions.of(name)
    if others is not None:
        before = [row for row in (yield from ask(_BEFORE, cache, name, others.first)) if others.has(row[2])]
        rows += sorted(before, key=_name_and_pushed, reverse=True)[:_MOST_BEFORE]
        behind = [row for row in (yield from ask(_BEHIND, cache, name, others.end)) if others.has(row[2])]
        rows += sorted(behind, key=_name_and_pushed)
    return [Base(HashPart(row[0]), row[1]) for row in rows[:MAX_BASES]]


def _pushed(row: Row) -> int:
    return int(row[3])


def _name_and_pushed(row: Row) -> tuple[str, int]:
    return str(row[2]), int(row[3])
