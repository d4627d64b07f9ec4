"""`Sessions` over a database."""

from collections.abc import Collection, Mapping
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.sessions import Progress
from harmonia_py.catalog.uploads import Session
from harmonia_py.database.object_rows import FILE, FILES, LEASE, READABLE, SESSION_COLUMNS, digits, nar_file, session_of
from harmonia_py.database.ports import Transactions, reads, scans, writes
from harmonia_py.database.received import receive
from harmonia_py.database.transaction import Transaction, ask, ask_as, ask_for_each, ask_many, ask_number, ask_row
from harmonia_py.database.uploads import live_on
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

_FIND: Final = f"select {SESSION_COLUMNS} from sessions where id = $1"
_RECEIVED: Final = """
    select count(*), coalesce(sum(f.file_size), 0) from (
        select cache_id, file_hash from received where session_id = $1
        union select cache_id, file_hash from received_as_well where session_id = $1
    ) b join received r on r.cache_id = b.cache_id and r.file_hash = b.file_hash
        join nar_files f on f.file_hash = r.file_hash
    where r.state = 'received'
"""
_PRESENT: Final = "select count(*) from leases where session_id = $1"
_BROUGHT: Final = """
    select o.state, count(*) from leases l
        join objects o on o.cache_id = l.cache_id and o.hash_part = l.hash_part and o.session_id = l.session_id
    where l.session_id = $1 group by o.state
"""
# `findings`: what is published is held against them.
_NARS: Final = f"""
    {FILES} where f.nar_hash in ($list) and f.quarantined_s is null and n.findings is not null and (
        exists (select 1 from received r where r.cache_id = $1 and r.file_hash = f.file_hash and r.state = 'received')
        or exists (select 1 from objects o where o.cache_id = $1 and o.file_hash = f.file_hash)
    )
"""
_SHOWN: Final = f"""
    select o.hash_part, {FILE}
    from objects o join nar_files f on f.file_hash = o.file_hash left join nars n on n.nar_hash = f.nar_hash
    where o.cache_id = $1 and o.hash_part in ($list) and {READABLE}
"""
_BLOB_KEYS: Final = f"""
    select o.hash_part, f.blob_key from objects o join nar_files f on f.file_hash = o.file_hash
    where o.cache_id = $1 and o.hash_part in ($list) and {READABLE}
"""
_ANNOUNCED: Final = """
    select hash_part from leases where session_id = $1 and cache_id = $2 and hash_part in ($list)
"""


class SqlSessions(Transactions):
    """`Sessions` in rows of the catalog."""

    @reads
    def find(self, session: str) -> Transaction[Session | None]:
        """As in `Sessions`."""
        return ask_as(session_of, _FIND, session)

    @scans
    def progress(self, session: str) -> Transaction[Progress]:
        """As in `Sessions`."""
        received, received_size = yield from ask_row(_RECEIVED, session)
        present = yield from ask_number(_PRESENT, session)
        brought = {state: int(count) for state, count in (yield from ask(_BROUGHT, session))}
        waiting = brought.pop("waiting", 0)
        return Progress(
            received=int(received),
            received_size=int(received_size),
            present=present - waiting,
            published=sum(brought.values()),
            waiting=waiting,
        )

    @writes(durable=False)
    def announce(
        self, cache: CacheId, session: str, hash_parts: Collection[HashPart], *, now: Timestamp
    ) -> Transaction[None]:
        """As in `Sessions`."""
        yield from live_on(cache, session, now)
        yield from ask_many(LEASE, [(session, cache, hash_part) for hash_part in sorted(hash_parts)])

    @reads
    def announced(
        self, cache: CacheId, session: str, hash_parts: Collection[HashPart]
    ) -> Transaction[frozenset[HashPart]]:
        """As in `Sessions`."""
        rows = yield from ask_for_each(_ANNOUNCED, sorted(hash_parts), session, cache)
        return frozenset(HashPart(row[0]) for row in rows)

    @writes(durable=False)
    def nars(
        self, cache: CacheId, session: str, nar_hashes: Collection[Hash], *, now: Timestamp
    ) -> Transaction[Mapping[Hash, NarFile]]:
        """As in `Sessions`."""
        yield from live_on(cache, session, now)
        rows = yield from ask_for_each(_NARS, sorted(map(digits, nar_hashes)), cache)
        found = {file.nar_hash: file for file in map(nar_file, rows) if file.nar_hash is not None}
        kept = [
            (cache, digits(file.file_hash), session, file.blob_key, now)
            for file in sorted(found.values(), key=lambda file: file.blob_key)
        ]
        yield from receive(kept)
        return found

    @reads
    def files(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Transaction[Mapping[HashPart, NarFile]]:
        """As in `Sessions`."""
        rows = yield from ask_for_each(_SHOWN, sorted(hash_parts), cache)
        return {HashPart(row[0]): nar_file(row[1:]) for row in rows}

    @reads
    def blob_keys(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Transaction[Mapping[HashPart, str]]:
        """As in `Sessions`."""
        rows = yield from ask_for_each(_BLOB_KEYS, sorted(hash_parts), cache)
        return {HashPart(row[0]): row[1] for row in rows}
