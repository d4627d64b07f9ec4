"""Files that caches were sent and no published path has yet, and the sessions for which they stay.

Two clients often push the same file: it stays until the last of their sessions has ended.
"""

from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.database.blob_keys import list_as_garbage
from harmonia_py.database.object_rows import drop_unused_files, forget_unused_files
from harmonia_py.database.transaction import Row, Statement, Transaction, ask, ask_many

# The session that was the last to bring it before another one does.
_AS_WELL: Final = """
    insert into received_as_well (cache_id, file_hash, session_id)
    select cache_id, file_hash, session_id from received where cache_id = $1 and file_hash = $2 and session_id <> $3
    on conflict do nothing
"""
_EXPECTED: Final = """
    insert into received (cache_id, file_hash, blob_key, session_id, state, received_s)
    values ($1, $2, $4, $3, 'expected', $5)
    on conflict (cache_id, file_hash) do update set session_id = excluded.session_id, received_s = excluded.received_s
"""
_RECEIVED: Final = """
    insert into received (cache_id, file_hash, blob_key, session_id, state, received_s)
    values ($1, $2, $4, $3, 'received', $5)
    on conflict (cache_id, file_hash) do update
        set session_id = excluded.session_id, received_s = excluded.received_s, state = excluded.state
"""
_OTHERS: Final = """
    from received_as_well w where w.cache_id = $1 and w.file_hash = $2 and w.session_id <> $3
"""
# Whatever there is, each row is changed by one of these alone, in any order.
_END_CLAIM: Final = (
    "delete from received_as_well where cache_id = $1 and file_hash = $2 and session_id = $3",
    f"""
        update received set session_id = (select min(w.session_id) {_OTHERS})
        where cache_id = $1 and file_hash = $2 and session_id = $3 and exists (select 1 {_OTHERS})
    """,
    f"""
        delete from received
        where cache_id = $1 and file_hash = $2 and session_id = $3 and not exists (select 1 {_OTHERS})
    """,
)
_NOT_AS_WELL: Final = "delete from received_as_well where session_id = $1"
_HAND_OVER: Final = """
    update received as r set session_id = (
        select min(w.session_id) from received_as_well w where w.cache_id = r.cache_id and w.file_hash = r.file_hash
    ) where session_id = $1 and exists (
        select 1 from received_as_well w where w.cache_id = r.cache_id and w.file_hash = r.file_hash
    )
"""
_OF_SESSION: Final = "select file_hash, blob_key from received where session_id = $1"
_FORGET: Final = "delete from received where session_id = $1"

Arrival = tuple[CacheId, str, str, str, Timestamp]
"""A cache, the digits of a file's hash, the session, the key of the bytes, and when."""


def expect(arrival: Arrival) -> Transaction[None]:
    """Note that a file is about to be written for this session."""
    yield from ask(_AS_WELL, *arrival[:3])
    yield from ask(_EXPECTED, *arrival)


def receive(arrivals: Sequence[Arrival]) -> Transaction[None]:
    """Note that these files are here, and stay for their sessions."""
    yield from ask_many(_AS_WELL, [arrival[:3] for arrival in arrivals])
    yield from ask_many(_RECEIVED, arrivals)


def ending_claim(cache: CacheId, file_hash: str, session: str) -> list[Statement]:
    """The statements that end the claim of one session on a file, which stays for those of others."""
    return [Statement(sql, (cache, file_hash, session)) for sql in _END_CLAIM]


def give_up_received(session: str, now: Timestamp) -> Transaction[int]:
    """Give up what a session has brought and not published; returns the number of NAR files that no session has now."""
    files = yield from _let_go(session)
    yield from drop_unused_files((file_hash for file_hash, _ in files), now)
    yield from list_as_garbage((blob_key for _, blob_key in files), now)  # they were expected, and perhaps begun
    return len(files)


def forget_received(session: str, now: Timestamp) -> Transaction[None]:
    """Forget what a session has brought and not published, and leave its bytes where they are."""
    files = yield from _let_go(session)
    yield from forget_unused_files((file_hash for file_hash, _ in files), now)


def _let_go(session: str) -> Transaction[list[Row]]:
    """The files, by hash and key, that no session has now."""
    yield from ask(_NOT_AS_WELL, session)
    yield from ask(_HAND_OVER, session)
    files = yield from ask(_OF_SESSION, session)
    yield from ask(_FORGET, session)
    return list(files)
