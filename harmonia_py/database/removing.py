"""The transactions that remove rows: of condemned objects, and of files and documents that were never published."""

from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import MIRROR, STORE, CacheId, Timestamp
from harmonia_py.catalog.collection import Collected, Removed
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.catalog.retention import Condemnation, plan_removal
from harmonia_py.catalog.uploads import SESSION_SECONDS, UNCLAIMED_SECONDS, WAITING_SECONDS
from harmonia_py.database.audit import NANOSECONDS
from harmonia_py.database.blob_keys import list_as_garbage
from harmonia_py.database.closures import renew_static
from harmonia_py.database.keepers import IS_LEASED, IS_PINNED
from harmonia_py.database.object_rows import KEEPERS, OBJECTS_OF_DOCUMENT, drop_unused_files, revive
from harmonia_py.database.received import give_up_received
from harmonia_py.database.totals import add_objects
from harmonia_py.database.transaction import Row, Transaction, ask, ask_for_each, ask_many
from harmonia_py.nix.store_path import HashPart

# In this order an object stands before its references.
_DUE: Final = f"""
    select o.hash_part, o.file_hash, o.file_size, {IS_PINNED}, {IS_LEASED}, o.used_s > o.condemned_s from objects o
    where o.cache_id = $1 and o.state = 'condemned' and o.condemned_s <= $3
    order by o.condemned_s, o.condemned_rank, o.hash_part limit $4
""".replace("$now", "$2")
_REFERRERS: Final = """
    select r.reference, r.hash_part, q.state <> 'condemned'
    from object_references r join objects q on q.cache_id = r.cache_id and q.hash_part = r.hash_part
    where r.cache_id = $1 and r.reference in ($list)
"""
_DOCUMENTS: Final = "select kind, name from object_documents where cache_id = $1 and hash_part in ($list)"
_UNKEPT_DOCUMENT: Final = f"""
    delete from documents as d where cache_id = $1 and kind = $2 and name in ($list) and not exists ({KEEPERS})
    returning name, blob_key
"""
# The log of a derivation that is not pushed itself has an edge of an object that never comes. What a push under way has
# brought may wait for that; everything else goes with the last object that is here.
_PUSHED_DOCUMENT: Final = f"""
    delete from documents as d where cache_id = $1 and kind = $2 and name in ($list)
        and (session_id is null or not exists ({KEEPERS})) and not exists ({OBJECTS_OF_DOCUMENT})
    returning name, blob_key
"""
_FORGET_EACH: Final = (
    "delete from object_documents where cache_id = $1 and hash_part in ($list)",
    "delete from object_references where cache_id = $1 and hash_part in ($list)",
    "delete from leases where cache_id = $1 and hash_part in ($list)",
    "delete from pin_revisions where cache_id = $1 and hash_part in ($list) and set_s is not null",
)
_FORGET: Final = "delete from objects where cache_id = $1 and hash_part in ($list) returning state, file_size"
_FORGET_NARINFOS: Final = "delete from upstream_narinfos where hash_part in ($list)"

# In the transaction that removes: neither is there without the other. $2 is the time in nanoseconds.
_AUDIT: Final = """
    insert into audit (at_ns, id, principal, action, cache, subject, detail)
    select $2, $4 || ' ' || o.cache_id || ' ' || o.hash_part, $3, $4, c.name, o.hash_part || '-' || o.name,
        '{"size": ' || o.file_size || ', "used": ' || o.used_s || ', "why": "' || coalesce(o.condemned_for, $5) || '"}'
    from objects o join caches c on c.id = o.cache_id
    where o.cache_id = $1 and o.hash_part in ($list) on conflict do nothing
"""
COLLECTOR: Final = "collector"
"""The principal of what the collector does."""

LOOSE: Final = f"""
    select kind, name, blob_key from documents d
    where cache_id = $1 and session_id is null and received_s <= $2 and not exists ({OBJECTS_OF_DOCUMENT})
"""
"""Documents that came without a push, and whose objects are not here."""

_WAITED: Final = """
    select cache_id, hash_part, file_hash from objects where state = 'waiting' and pushed_s <= $1
    order by pushed_s limit $2
"""
_DEAD: Final = "select id from sessions where seen_s <= $1 order by seen_s limit $2"
# A long listing waits under the hash of its NAR, and goes with the last session that has brought a file of that.
HAND_LISTINGS_OVER: Final = """
    update documents as d set session_id = (
        select min(r.session_id) from nar_files f join received r on r.file_hash = f.file_hash
        where f.nar_hash = d.name and r.cache_id = d.cache_id
    ) where session_id = $1 and kind = 'ls' and exists (
        select 1 from nar_files f join received r on r.file_hash = f.file_hash
        where f.nar_hash = d.name and r.cache_id = d.cache_id
    )
"""
_UNSEEN_DOCUMENTS: Final = f"""
    select cache_id, kind, name, blob_key from documents d where session_id = $1 and not exists ({OBJECTS_OF_DOCUMENT})
"""
_NO_KEEPERS: Final = "delete from object_documents where cache_id = $1 and kind = $2 and name = $3"
_NONE_KEEPS: Final = "delete from object_documents where cache_id = $1 and kind = $2 and name in ($list)"
_NO_DOCUMENT: Final = "delete from documents where cache_id = $1 and kind = $2 and name = $3"
_END_SESSION: Final = (
    "update documents set session_id = null where session_id = $1",
    "delete from leases where session_id = $1",
    "delete from sessions where id = $1",
)
_UNCLAIMED_FILES: Final = """
    select cache_id, file_hash, blob_key from received where received_s <= $1 order by received_s limit $2
"""
_NOT_RECEIVED_FILE: Final = "delete from received where cache_id = $1 and file_hash = $2"
_OLD_DOCUMENTS: Final = f"""
    select cache_id, kind, name, blob_key, exists ({OBJECTS_OF_DOCUMENT})
    from documents d where session_id is not null and received_s <= $1 order by received_s limit $2
"""
_SETTLE_DOCUMENT: Final = """
    update documents set session_id = null where cache_id = $1 and kind = $2 and name = $3
"""
_EMPTY_CACHES: Final = """
    select id, name from caches c where deleted_s is not null
        and not exists (select 1 from objects where cache_id = c.id)
        and not exists (select 1 from received where cache_id = c.id)
        and not exists (select 1 from sessions where cache_id = c.id)
        and not exists (select 1 from documents where cache_id = c.id)
    limit $1
"""
_FORGET_CACHE: Final = (
    "delete from totals where cache_id = $1",
    "delete from signing_keys where cache_id = $1",
    "delete from room_wanted where cache_id = $1",
    "delete from caches where id = $1",
)


def remove(cache: CacheId, condemned_before: Timestamp, limit: int, now: Timestamp) -> Transaction[Removed]:
    """As `Collection.remove`."""
    due = yield from ask(_DUE, cache, now, condemned_before, limit)
    referrers = yield from ask_for_each(_REFERRERS, [row[0] for row in due], cache)
    removal = plan_removal(_condemnations(due, set(referrers)))
    revived = yield from revive(cache, removal.kept, now)
    going = set(removal.going)
    yield from note_removals(cache, removal.going, now)
    yield from forget_objects(cache, [(row[0], row[1]) for row in due if row[0] in going], now)
    return Removed(objects=removal.going, size=sum(row[2] for row in due if row[0] in going), revived=revived)


def _condemnations(due: Sequence[Row], referrers: set[Row]) -> list[Condemnation]:
    by_object: dict[str, list[HashPart]] = {}
    kept = {reference for reference, _, lives in referrers if lives}
    for reference, referrer, _ in referrers:
        by_object.setdefault(reference, []).append(HashPart(referrer))
    return [
        Condemnation(
            hash_part=HashPart(hash_part),
            kept=bool(pinned or leased or used or hash_part in kept),
            referrers=tuple(by_object.get(hash_part, ())),
        )
        for hash_part, _, _, pinned, leased, used in due
    ]


def note_removals(
    cache: CacheId,
    hash_parts: Sequence[str],
    now: Timestamp,
    *,
    principal: str = COLLECTOR,
    action: str = "collect",
    why: str = "deleted",
) -> Transaction[None]:
    """Note in the audit log that these objects go, each with its size, its last use, and why unless it is condemned.

    Nothing is noted of replaceable files, which were compressed here or mirrored.
    """
    if cache not in {STORE, MIRROR}:
        yield from ask_for_each(_AUDIT, sorted(hash_parts), cache, now * NANOSECONDS, principal, action, why)


def forget_objects(cache: CacheId, objects: Sequence[tuple[str, str]], now: Timestamp) -> Transaction[None]:
    """Remove rows of objects, given with their files, and what nothing else needs."""
    hash_parts = [hash_part for hash_part, _ in objects]
    documents = yield from ask_for_each(_DOCUMENTS, hash_parts, cache)
    yield from renew_static([(cache, hash_part) for hash_part in hash_parts], now)
    for statement in _FORGET_EACH:
        yield from ask_for_each(statement, hash_parts, cache)
    gone = yield from ask_for_each(_FORGET, hash_parts, cache)
    for state in ObjectState:
        sizes = [size for its_state, size in gone if its_state == state.value]
        yield from add_objects(cache, state, sizes, sign=-1)
    if cache == MIRROR:
        yield from ask_for_each(_FORGET_NARINFOS, hash_parts)
    yield from _forget_unkept(cache, sorted(set(documents)), now)
    yield from drop_unused_files((file_hash for _, file_hash in objects), now)


def _forget_unkept(cache: CacheId, documents: Sequence[Row], now: Timestamp) -> Transaction[None]:
    """Remove the documents, given by kind and name, that nothing keeps any more."""
    unkept = _UNKEPT_DOCUMENT if cache in {STORE, MIRROR} else _PUSHED_DOCUMENT
    by_kind: dict[str, list[str]] = {}
    for kind, name in documents:
        by_kind.setdefault(kind, []).append(name)
    keys: list[str | None] = []
    for kind, names in by_kind.items():
        rows = yield from ask_for_each(unkept, names, cache, kind)
        yield from ask_for_each(_NONE_KEEPS, [row[0] for row in rows], cache, kind)
        keys += [row[1] for row in rows]
    yield from list_as_garbage(keys, now)


def drop_documents(cache: CacheId, before: Timestamp, limit: int, now: Timestamp) -> Transaction[int]:
    """As `Garbage.drop_documents`."""
    documents = yield from ask(f"{LOOSE} order by received_s limit $3", cache, before, limit)
    yield from _forget_documents([(cache, *document) for document in documents], now)
    return len(documents)


def sweep(limit: int, now: Timestamp) -> Transaction[Collected]:
    """As `Garbage.sweep`."""
    waited = yield from ask(_WAITED, now - WAITING_SECONDS, limit)
    for cache, hash_part, file_hash in waited:
        yield from note_removals(cache, [hash_part], now, why="waited")
        yield from forget_objects(cache, [(hash_part, file_hash)], now)
    dead = yield from ask(_DEAD, now - SESSION_SECONDS, limit)
    files = 0
    for (session,) in dead:
        files += yield from _end_session(session, now)
    files += yield from _give_up_unclaimed(limit, now)
    for cache, name in (yield from ask(_EMPTY_CACHES, limit)):
        for statement in _FORGET_CACHE:
            yield from ask(statement, cache)
        yield from list_as_garbage([f"{name}/nix-cache-info"], now)
    return Collected(swept=len(dead), swept_files=files, waited=len(waited))


def _end_session(session: str, now: Timestamp) -> Transaction[int]:
    """Remove a session with what it brought and never published; returns how many files of NARs that was."""
    files = yield from give_up_received(session, now)
    yield from ask(HAND_LISTINGS_OVER, session)
    yield from _forget_documents((yield from ask(_UNSEEN_DOCUMENTS, session)), now)
    for statement in _END_SESSION:
        yield from ask(statement, session)
    return files


def _give_up_unclaimed(limit: int, now: Timestamp) -> Transaction[int]:
    """Give up what waits for too long in pushes that live on; returns how many files of NARs that was."""
    before = now - UNCLAIMED_SECONDS
    files = yield from ask(_UNCLAIMED_FILES, before, limit)
    yield from ask_many(_NOT_RECEIVED_FILE, [row[:2] for row in files])
    yield from drop_unused_files((row[1] for row in files), now)
    yield from list_as_garbage((row[2] for row in files), now)
    documents = yield from ask(_OLD_DOCUMENTS, before, limit)
    # Published documents are looked at once: from now on they belong to no push.
    yield from ask_many(_SETTLE_DOCUMENT, [row[:3] for row in documents if row[4]])
    yield from _forget_documents([row[:4] for row in documents if not row[4]], now)
    return len(files)


def _forget_documents(documents: Sequence[Row], now: Timestamp) -> Transaction[None]:
    """Remove documents, given by cache, kind, name and key, and whatever would have kept them."""
    keys = [row[:3] for row in documents]
    yield from ask_many(_NO_KEEPERS, keys)
    yield from ask_many(_NO_DOCUMENT, keys)
    yield from list_as_garbage((row[3] for row in documents), now)
