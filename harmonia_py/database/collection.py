"""`Collection` over a database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from harmonia_py.catalog.caches import CacheId, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Candidate, Condemned, CondemnedObject, Inventory, Reason, Removed, Scope
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.database.keepers import IS_LEASED, IS_PINNED, IS_REFERENCED, REFERRER, REVISION_KEEPS
from harmonia_py.database.ports import Transactions, reads, scans, writes
from harmonia_py.database.removing import remove
from harmonia_py.database.totals import move_objects
from harmonia_py.database.transaction import Database, Topic, Transaction, ask, ask_for_each, ask_many, ask_one, ask_row
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.runtime.bounded import Bounded

# A library that a million objects reference is kept by any of them.
_REFERRERS: Final = 8
# Of so many references it is known which object was seen last to keep them, in some 300 bytes each.
_SEEN: Final = 16_384

_SCOPES: Final = "select id, settings, deleted_s from caches where id > $1 order by id limit $2"
_REFERRED: Final = f"(select max(few.aged_from_s) from (select q.aged_from_s {REFERRER} limit {_REFERRERS}) few)"
_CANDIDATE: Final = f"""
    select o.hash_part, o.file_size, o.aged_from_s, {IS_PINNED}, {IS_LEASED}, {_REFERRED}
    from objects o where o.cache_id = $1 and o.state = 'published'
"""
_OLDEST: Final = f"""
    {_CANDIDATE} and (o.aged_from_s, o.hash_part) > ($3, $4) order by o.aged_from_s, o.hash_part limit $5
""".replace("$now", "$2")
_THESE: Final = f"{_CANDIDATE} and o.hash_part in ($list)".replace("$now", "$2")
# SQLite takes a cache for ten objects, as long as nothing says otherwise, and reads all that are published through the
# index by age, rather than these by their key. That index is of no use where the state is computed.
_CONDEMN: Final = f"""
    update objects as o set state = 'condemned', condemned_s = $2, condemned_for = $3, condemned_rank = coalesce((
        select max(q.condemned_rank) + 1
        from object_references r join objects q on q.cache_id = r.cache_id and q.hash_part = r.hash_part
        where r.cache_id = o.cache_id and r.reference = o.hash_part
    ), 0)
    where o.cache_id = $1 and o.hash_part in ($list) and o.state || '' = 'published' and o.aged_from_s <= $4
        and not {IS_PINNED} and not {IS_LEASED} and not {IS_REFERENCED}
    returning hash_part, file_size
""".replace("$now", "$2")
_NEXT: Final = """
    select r.reference from object_references r where r.cache_id = $1 and r.hash_part in ($list)
"""
_PUBLISHED: Final = """
    select hash_part from objects where cache_id = $1 and state || '' = 'published' and hash_part in ($list)
"""
_REFERRER_AFTER: Final = """
    select r.hash_part from object_references r join objects q on q.cache_id = r.cache_id and q.hash_part = r.hash_part
    where r.cache_id = $1 and r.reference = $2 and r.hash_part > $3 and q.state <> 'condemned'
    order by r.hash_part limit 1
"""
_ANY_DUE: Final = "select 1 from objects where cache_id = $1 and state = 'condemned' and condemned_s <= $2 limit 1"
_CONDEMNED: Final = """
    select hash_part, name, file_size, condemned_for, condemned_s, condemned_rank, used_s from objects
    where cache_id = $1 and state = 'condemned' and (condemned_s, condemned_rank, hash_part) > ($2, $3, $4)
    order by condemned_s, condemned_rank, hash_part limit $5
"""
# SQLite looks at both sides of a cross join in the order in which they stand.
_CLOSURE_SIZE: Final = """
    with recursive closure (hash_part) as (
        select hash_part from objects where cache_id = $1 and hash_part = $2
        union
        select r.reference from closure c cross join object_references r
        where r.cache_id = $1 and r.hash_part = c.hash_part
    )
    select count(*), coalesce(sum(o.file_size), 0) from closure c cross join objects o
        where o.cache_id = $1 and o.hash_part = c.hash_part
"""
_INVENTORY: Final = f"""
    select (select count(*) from pins), (
        select count(*) from (
            select distinct pr.cache_id, pr.hash_part
            from pin_revisions pr join pins p on p.cache_id = pr.cache_id and p.name = pr.name
            where pr.set_s is not null and ({REVISION_KEEPS})
        ) kept
    ), (select count(*) from garbage)
""".replace("$now", "$1")
_AGE: Final = "update objects set aged_from_s = $3 where cache_id = $1 and hash_part = $2 and aged_from_s < $3"


class SqlCollection(Transactions):
    """`Collection` in rows of the catalog."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._seen: Bounded[tuple[CacheId, str], str] = Bounded(_SEEN)

    @reads
    def scopes(self, after: CacheId | None, limit: int) -> Transaction[Sequence[Scope]]:
        """As in `Collection`."""
        return [
            Scope(
                cache=CacheId(number),
                settings=msgspec.json.decode(settings, type=CacheSettings),
                deleted=deleted is not None,
            )
            for number, settings, deleted in (yield from ask(_SCOPES, after or 0, limit))
        ]

    @scans
    def candidates(
        self, cache: CacheId, after: tuple[Timestamp, HashPart] | None, limit: int, *, now: Timestamp
    ) -> Transaction[Sequence[Candidate]]:
        """As in `Collection`."""
        aged_from, hash_part = after or (-1, "")
        return [_candidate(row) for row in (yield from ask(_OLDEST, cache, now, aged_from, hash_part, limit))]

    # A ready answer does not tell the catalog of its use: no condemned object may be in one. The transaction need
    # not be durable: after a power cut objects are condemned again.
    @writes(Topic.OBJECTS, Topic.REMOVALS, durable=False)
    def condemn(
        self,
        cache: CacheId,
        hash_parts: Collection[HashPart],
        reason: Reason,
        *,
        unused_since: Timestamp,
        now: Timestamp,
    ) -> Transaction[Condemned]:
        """As in `Collection`."""
        these = sorted(hash_parts)
        rows = yield from ask_for_each(_CONDEMN, these, cache, now, reason.value, unused_since)
        yield from move_objects(cache, ObjectState.PUBLISHED, ObjectState.CONDEMNED, [row[1] for row in rows])
        condemned = sorted(row[0] for row in rows)
        references = {row[0] for row in (yield from ask_for_each(_NEXT, condemned, cache))}
        unkept = yield from self._unreferenced(cache, references)
        following = yield from ask_for_each(_THESE, unkept, cache, now)
        return Condemned(
            objects=frozenset(map(HashPart, condemned)),
            size=sum(row[1] for row in rows),
            next=tuple(map(_candidate, dict.fromkeys(following))),
        )

    @writes(durable=False)
    def age(self, cache: CacheId, aged_from: Mapping[HashPart, Timestamp]) -> Transaction[None]:
        """As in `Collection`."""
        rows = [(cache, hash_part, at) for hash_part, at in sorted(aged_from.items())]
        yield from ask_many(_AGE, rows)

    async def remove(self, cache: CacheId, condemned_before: Timestamp, limit: int, *, now: Timestamp) -> Removed:
        """As in `Collection`."""
        if await self._database.scan(lambda: ask_one(_ANY_DUE, cache, condemned_before)) is None:
            return Removed()  # without ending what others hold ready
        # No byte is deleted before its key is claimed, which is durable, and with it this.
        return await self._database.write(
            lambda: remove(cache, condemned_before, limit, now), Topic.OBJECTS, Topic.REMOVALS, durable=False
        )

    @scans
    def condemned(
        self, cache: CacheId, after: tuple[Timestamp, int, HashPart] | None, limit: int
    ) -> Transaction[Sequence[CondemnedObject]]:
        """As in `Survey`."""
        place = after or (-1, 0, "")
        return [
            CondemnedObject(
                path=StorePath(f"{hash_part}-{name}"),
                size=size,
                reason=Reason(reason),
                since=Timestamp(since),
                rank=rank,
                used=Timestamp(used),
            )
            for hash_part, name, size, reason, since, rank, used in (yield from ask(_CONDEMNED, cache, *place, limit))
        ]

    @scans
    def closure_size(self, cache: CacheId, hash_part: HashPart) -> Transaction[tuple[int, int]]:
        """As in `Survey`."""
        count, size = yield from ask_row(_CLOSURE_SIZE, cache, hash_part)
        return int(count), int(size)

    @scans
    def inventory(self, *, now: Timestamp) -> Transaction[Inventory]:
        """As in `Survey`."""
        pins, pinned, garbage = yield from ask_row(_INVENTORY, now)
        return Inventory(pins=pins, pinned=pinned, garbage=garbage)

    def _unreferenced(self, cache: CacheId, references: Collection[str]) -> Transaction[list[str]]:
        """The objects that no object references, except condemned ones.

        Of what most of a cache references, most of what references it may be condemned already, and each batch asks
        again. So the search goes on from what was found last; only when that ends in vain, all is looked at.
        """
        last = {reference: self._seen.get((cache, reference), "") for reference in references}
        rows = yield from ask_for_each(_PUBLISHED, sorted(set(last.values()) - {""}), cache)
        published = {row[0] for row in rows}
        unkept = []
        for reference in sorted(reference for reference in references if last[reference] not in published):
            row = yield from ask_one(_REFERRER_AFTER, cache, reference, last[reference])
            if row is None and last[reference]:
                row = yield from ask_one(_REFERRER_AFTER, cache, reference, "")
            if row is None:
                self._seen.pop((cache, reference), None)
                unkept.append(reference)
            else:
                self._seen[cache, reference] = row[0]
        return unkept


def _candidate(row: tuple[Any, ...]) -> Candidate:
    hash_part, size, aged_from, pinned, leased, referrer_aged_from = row
    return Candidate(
        hash_part=HashPart(hash_part),
        size=size,
        aged_from=Timestamp(aged_from),
        pinned=bool(pinned),
        leased=bool(leased),
        referrer_aged_from=None if referrer_aged_from is None else Timestamp(referrer_aged_from),
    )
