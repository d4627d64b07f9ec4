"""`Objects`, `ObjectIndex` and `StaticObjects` over a database."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.objects import Document, DocumentKind, Keepers, Publication, Published, Size, StoredObject
from harmonia_py.database.keepers import LIVE_REFERRERS, PINS_OF, SESSIONS_OF
from harmonia_py.database.object_rows import (
    OBJECT,
    OBJECTS,
    OBJECTS_OF_DOCUMENT,
    OF_STORE,
    READABLE,
    document_of,
    revive,
    stored_object,
)
from harmonia_py.database.ports import Transactions, reads, scans, writes
from harmonia_py.database.publishing import publish
from harmonia_py.database.totals import size_of
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_as, ask_for_each, ask_many, ask_one
from harmonia_py.database.uploads import live_on
from harmonia_py.nix.store_path import HashPart, StorePath

_PRESENT: Final = f"""
    select o.hash_part from objects o
    where o.cache_id = $1 and o.hash_part in ($list) and {READABLE}
"""
_PRESENT_IS_LEASED: Final = f"""
    insert into leases (session_id, cache_id, hash_part) select $2, o.cache_id, o.hash_part from objects o
    where o.cache_id = $1 and o.hash_part in ($list) and {READABLE} on conflict do nothing
"""
_USED_NOW: Final = """
    update objects set used_s = case when used_s < $2 then $2 else used_s end,
        aged_from_s = case when aged_from_s < $2 then $2 else aged_from_s end
    where cache_id = $1 and (used_s < $2 or aged_from_s < $2) and hash_part in ($list)
"""
_USED: Final = """
    update objects set used_s = case when used_s < $3 then $3 else used_s end,
        aged_from_s = case when aged_from_s < $3 then $3 else aged_from_s end
    where cache_id = $1 and hash_part = $2
"""
_DOCUMENT: Final = (
    "select name, size, blob_key, body from documents d where d.cache_id = $1 and d.kind = $2 and d.name = $3"
)
_PUBLISHED_DOCUMENT: Final = f"{_DOCUMENT} and exists ({OBJECTS_OF_DOCUMENT} and {READABLE})"
_PAGE: Final = f"{OBJECTS} where o.cache_id = $1 and o.hash_part > $2 and {READABLE} order by o.hash_part limit $3"
_NAMES: Final = "select o.hash_part, o.name from objects o where o.cache_id = $1 and o.hash_part in ($list)"
_SHOWN_NAMES: Final = f"{_NAMES} and {READABLE}"
_WAITS: Final = "select 1 from objects where cache_id = $1 and hash_part = $2 and state = 'waiting'"
_WAITS_FOR: Final = f"""
    select m.reference from object_references m
        left join objects t on t.cache_id = m.cache_id and t.hash_part = m.reference and t.state <> 'waiting'
    where m.cache_id = $1 and m.hash_part = $2 and m.elsewhere = 0 and t.hash_part is null
        and m.reference <> '{OF_STORE}'
"""
_USES: Final = "select hash_part, used_s, state = 'waiting' from objects where cache_id = $1 and hash_part in ($list)"
_OBJECTS: Final = f"{OBJECTS} where o.cache_id = $1 and o.hash_part in ($list) and {READABLE}"
_LISTINGS: Final = """
    select name, size, blob_key, body from documents where cache_id = $1 and kind = $2 and name in ($list)
"""


class SqlObjects(Transactions):
    """`Objects`, `ObjectIndex` and `StaticObjects` in rows of the catalog."""

    @reads
    def find(self, cache: CacheId, hash_part: HashPart) -> Transaction[StoredObject | None]:
        """As in `Objects`."""
        return ask_as(stored_object, OBJECT, cache, hash_part)

    @writes(durable=False)
    def present(
        self, cache: CacheId, session: str, hash_parts: Collection[HashPart], *, now: Timestamp
    ) -> Transaction[frozenset[HashPart]]:
        """As in `Objects`."""
        # Of ten thousand paths a row of parameters for each would take most of the time.
        yield from live_on(cache, session, now)
        rows = yield from ask_for_each(_PRESENT, sorted(hash_parts), cache)
        here = sorted({HashPart(row[0]) for row in rows})
        yield from ask_for_each(_PRESENT_IS_LEASED, here, cache, session)
        yield from ask_for_each(_USED_NOW, here, cache, now)
        yield from revive(cache, here, now)
        return frozenset(here)

    async def publish(self, publication: Publication, *, now: Timestamp) -> Published:
        """As in `Objects`."""
        topics = (Topic.OBJECTS, Topic.REMOVALS) if publication.replace else (Topic.OBJECTS,)
        return await self._database.write(lambda: publish(publication, now), *topics)

    @writes(durable=False)
    def used(self, last_uses: Mapping[tuple[CacheId, HashPart], Timestamp]) -> Transaction[None]:
        """As in `Objects`."""
        by_cache: dict[CacheId, dict[HashPart, Timestamp]] = {}
        for (cache, hash_part), at in last_uses.items():
            by_cache.setdefault(cache, {})[hash_part] = at
        for cache, uses in by_cache.items():
            yield from ask_many(_USED, [(cache, hash_part, at) for hash_part, at in sorted(uses.items())])
            yield from revive(cache, uses, max(uses.values()))

    @reads
    def document(
        self, cache: CacheId, kind: DocumentKind, name: str, *, pending: bool = False
    ) -> Transaction[Document | None]:
        """As in `Objects`."""
        sql = _DOCUMENT if pending else _PUBLISHED_DOCUMENT
        return ask_as(partial(document_of, kind), sql, cache, kind.value, name)

    @reads
    def page(self, cache: CacheId, after: HashPart | None, limit: int) -> Transaction[Sequence[StoredObject]]:
        """As in `ObjectIndex`."""
        return [stored_object(row) for row in (yield from ask(_PAGE, cache, after or "", limit))]

    @reads
    def paths(
        self, cache: CacheId, hash_parts: Collection[HashPart], *, shown: bool = False
    ) -> Transaction[Mapping[HashPart, StorePath]]:
        """As in `ObjectIndex`."""
        return paths(cache, hash_parts, shown=shown)

    @reads
    def waiting(self, cache: CacheId, hash_part: HashPart) -> Transaction[frozenset[HashPart] | None]:
        """As in `ObjectIndex`."""
        if (yield from ask_one(_WAITS, cache, hash_part)) is None:
            return None
        return frozenset(HashPart(row[0]) for row in (yield from ask(_WAITS_FOR, cache, hash_part)))

    @reads
    def size(self, cache: CacheId | None) -> Transaction[Size]:
        """As in `ObjectIndex`."""
        return size_of(cache)

    @scans
    def keepers(
        self, cache: CacheId, hash_parts: Collection[HashPart], limit: int, *, now: Timestamp
    ) -> Transaction[Mapping[HashPart, Keepers]]:
        """As in `ObjectIndex`."""
        found: dict[HashPart, Keepers] = {}
        for hash_part, used, waits in (yield from ask_for_each(_USES, sorted(hash_parts), cache)):
            found[HashPart(hash_part)] = Keepers(
                pins=tuple(row[0] for row in (yield from ask(PINS_OF, cache, hash_part, now))),
                sessions=tuple(row[0] for row in (yield from ask(SESSIONS_OF, cache, hash_part, now))),
                used=Timestamp(used),
                waits=bool(waits),
                referrers=tuple(row[0] for row in (yield from ask(LIVE_REFERRERS, cache, hash_part, limit))),
            )
        return found

    @reads
    def objects(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Transaction[Sequence[StoredObject]]:
        """As in `StaticObjects`."""
        rows = yield from ask_for_each(_OBJECTS, sorted(hash_parts), cache)
        return [stored_object(row) for row in rows]

    @reads
    def listings(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Transaction[Mapping[HashPart, Document]]:
        """As in `StaticObjects`."""
        rows = yield from ask_for_each(_LISTINGS, sorted(hash_parts), cache, DocumentKind.LISTING.value)
        return {HashPart(row[0]): document_of(DocumentKind.LISTING, row) for row in rows}


def paths(
    cache: CacheId, hash_parts: Collection[HashPart], *, shown: bool = False
) -> Transaction[dict[HashPart, StorePath]]:
    """As `ObjectIndex.paths`."""
    rows = yield from ask_for_each(_SHOWN_NAMES if shown else _NAMES, sorted(hash_parts), cache)
    return {HashPart(hash_part): StorePath(f"{hash_part}-{name}") for hash_part, name in rows}
