"""Objects whose closure is not whole: they wait for a reference, or are broken by a lost file.

When a file is quarantined, the objects that have it are broken, with all that reference them, directly or not: readers
do not see a path of which something cannot be had. When the file comes again, they are whole again, from below.
"""

from collections.abc import Collection, Iterable
from typing import Final

from harmonia_py.catalog.audit import AuditEntry
from harmonia_py.catalog.caches import MIRROR, STORE, CacheId, Timestamp
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.database.audit import NANOSECONDS, note, noting_in_cache, quarantined
from harmonia_py.database.object_rows import READABLE, digits, revive
from harmonia_py.database.totals import move_objects
from harmonia_py.database.transaction import Statement, Transaction, ask, ask_for_each, ask_many, ask_number, ask_one
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart

_QUARANTINE: Final = """
    update nar_files set quarantined_s = $2, quarantined_for = $3 where file_hash = $1 and quarantined_s is null
    returning blob_key
"""
# Waiting objects are not seen anyway.
_BREAK: Final = """
    with recursive broken (cache_id, hash_part) as (
        {first}
        union
        select o.cache_id, o.hash_part from broken b
            join object_references r on r.cache_id = b.cache_id and r.reference = b.hash_part and r.elsewhere = 0
            join objects o on o.cache_id = r.cache_id and o.hash_part = r.hash_part and o.state <> 'waiting'
    )
    update objects set broken_s = $2
    where broken_s is null and (cache_id, hash_part) in (select cache_id, hash_part from broken)
    returning cache_id, hash_part
"""
_BREAK_FILE: Final = _BREAK.format(
    first="select cache_id, hash_part from objects where file_hash = $1 and state <> 'waiting'"
)
_BREAK_REFERRERS: Final = _BREAK.format(
    first="""
        select r.cache_id, r.hash_part from object_references r
            join objects o on o.cache_id = r.cache_id and o.hash_part = r.hash_part and o.state <> 'waiting'
        where r.cache_id = $1 and r.reference = $3 and r.elsewhere = 0
    """
)
_OF_FILE: Final = "select cache_id, hash_part from objects where file_hash = $1"

_NOT_WHOLE: Final = "(o.state = 'waiting' or o.broken_s is not null)"
_REFERRERS: Final = f"""
    select distinct r.hash_part from object_references r
        join objects o on o.cache_id = r.cache_id and o.hash_part = r.hash_part and {_NOT_WHOLE}
    where r.cache_id = $1 and r.reference in ($list)
"""
# The objects that lack nothing any more.
_READY: Final = f"""
    select p.hash_part, p.state = 'waiting' from objects p
        join nar_files f on f.file_hash = p.file_hash and f.quarantined_s is null
    where p.cache_id = $1 and p.hash_part in ($list) and {_NOT_WHOLE.replace("o.", "p.")} and not exists (
        select 1 from object_references m
            left join objects o on o.cache_id = m.cache_id and o.hash_part = m.reference and {READABLE}
        where m.cache_id = p.cache_id and m.hash_part = p.hash_part and m.elsewhere = 0 and o.hash_part is null
    )
"""
_PUBLISH: Final = """
    update objects set state = 'published', broken_s = null, used_s = $3, aged_from_s = $3
    where cache_id = $1 and hash_part = $2 returning file_size
"""
_MEND: Final = "update objects set broken_s = null where cache_id = $1 and hash_part = $2"
_AS_OLD_AS_IT_WAS: Final = Timestamp(0)
_SET_PINS: Final = """
    update pin_revisions set set_s = $3 where cache_id = $1 and hash_part = $2 and set_s is null
"""
# In the transaction that publishes: neither is there without the other. What was not pushed has no session.
_AUDIT: Final = """
    insert into audit (at_ns, id, principal, action, cache, subject, detail)
    select $3, 'push ' || o.cache_id || ' ' || o.hash_part, o.pushed_by, 'push', c.name, o.hash_part || '-' || o.name,
        '{"nar_hash": "sha256:' || o.nar_hash || '"}'
    from objects o join caches c on c.id = o.cache_id
    where o.cache_id = $1 and o.hash_part = $2 and o.session_id is not null on conflict do nothing
"""

# A deletion that is under way ends by forgetting what it was told to delete; this has to be looked at after that.
# Static narinfos go before the bytes that they name, which are listed in this second at the earliest.
_RENEW_STATIC: Final = """
    insert into garbage (blob_key, since_s, not_before_s, claimed)
    select c.name || '/' || $2 || '.narinfo', $3, $3 - 1, 0 from caches c where c.id = $1
    on conflict (blob_key) do update set since_s = excluded.since_s, claimed = 0
"""


def quarantine(file_hash: str, reason: str, now: Timestamp) -> Transaction[int | None]:
    """As `Nars.quarantine`."""
    row = yield from ask_one(_QUARANTINE, file_hash, now, reason)
    if row is None:
        return None
    broken = yield from ask(_BREAK_FILE, file_hash, now)
    yield from renew_static(broken, now)
    yield from note([quarantined(file_hash, row[0], now, reason=reason, hidden=len(broken))])
    return len(broken)


def break_referrers(cache: CacheId, hash_part: HashPart, now: Timestamp) -> Transaction[None]:
    """Break what references an object that readers do not see any more."""
    yield from renew_static((yield from ask(_BREAK_REFERRERS, cache, now, hash_part)), now)


def heal(file_hash: str, now: Timestamp) -> Transaction[None]:
    """Show again, in every cache, what lacked this file alone."""
    by_cache: dict[CacheId, list[str]] = {}
    for cache, hash_part in (yield from ask(_OF_FILE, file_hash)):
        by_cache.setdefault(cache, []).append(hash_part)
    for cache, hash_parts in by_cache.items():
        yield from _restore(cache, hash_parts, now)


def arrive(cache: CacheId, hash_part: HashPart, now: Timestamp) -> Transaction[tuple[HashPart, ...]]:
    """Publish what waited for this object alone, and what waited for that; returns what readers see from now on."""
    referrers = yield from ask_for_each(_REFERRERS, [hash_part], cache)
    return (yield from _restore(cache, [row[0] for row in referrers], now))


def _restore(cache: CacheId, candidates: Collection[str], now: Timestamp) -> Transaction[tuple[HashPart, ...]]:
    """Show the objects that lack nothing, then those that reference them, and so on."""
    restored: list[HashPart] = []
    while candidates:
        ready: dict[str, int] = dict((yield from ask_for_each(_READY, sorted(candidates), cache)))
        for hash_part, waited in sorted(ready.items()):
            if waited:
                size = yield from ask_number(_PUBLISH, cache, hash_part, now)
                yield from move_objects(cache, ObjectState.WAITING, ObjectState.PUBLISHED, [size])
                yield setting_pins(cache, HashPart(hash_part), now)
                yield from ask(_AUDIT, cache, hash_part, now * NANOSECONDS)
            else:
                yield from ask(_MEND, cache, hash_part)
        # An object that was condemned while no reader saw it begins its grace now. Its age stays as it was.
        yield from revive(cache, [hash_part for hash_part, waited in ready.items() if not waited], _AS_OLD_AS_IT_WAS)
        yield from renew_static([(cache, hash_part) for hash_part in ready], now)
        restored += map(HashPart, ready)
        candidates = {row[0] for row in (yield from ask_for_each(_REFERRERS, sorted(ready), cache))}
    return tuple(restored)


def noting_push(cache: CacheId, path_info: PathInfo, pushed_by: str, now: Timestamp) -> Statement:
    """Notes that a session published an object, as `_AUDIT` does.

    From values: a statement does not see the object that another one of its question inserts.
    """
    path, nar_hash = path_info.store_path, f'{{"nar_hash": "sha256:{digits(path_info.nar_hash)}"}}'
    entry = AuditEntry(
        at_ns=now * NANOSECONDS,
        id=f"push {cache} {path.hash_part}",
        principal=pushed_by,
        action="push",
        subject=str(path),
        detail=nar_hash,
    )
    return noting_in_cache(cache, entry)


def setting_pins(cache: CacheId, hash_part: HashPart, now: Timestamp) -> Statement:
    """Sets the pins that waited for an object."""
    return Statement(_SET_PINS, (cache, hash_part, now))


def renew_static(objects: Iterable[tuple[CacheId, str]], now: Timestamp) -> Transaction[None]:
    """Have the narinfos that other programs read written anew where readers see their objects, deleted elsewhere."""
    rows = [(cache, hash_part, now) for cache, hash_part in objects if cache not in {STORE, MIRROR}]
    yield from ask_many(_RENEW_STATIC, sorted(rows))
