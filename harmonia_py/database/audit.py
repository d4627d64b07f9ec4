"""`Audit` over a database."""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from harmonia_py.catalog.audit import AuditEntry
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.transaction import Statement, Transaction, ask, ask_many

_COLUMNS: Final = "at_ns, id, principal, action, cache, subject, detail"
_NOTE: Final = f"insert into audit ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing"
_PAGE: Final = f"select {_COLUMNS} from audit where (at_ns, id) > ($1, $2) order by at_ns, id limit $3"
_PRUNE: Final = """
    delete from audit where (at_ns, id) in (select at_ns, id from audit where at_ns < $1 order by at_ns, id limit $2)
    returning id
"""
_NOTE_IN_CACHE: Final = f"""
    insert into audit ({_COLUMNS}) select $1, $2, $3, $4, name, $5, $6 from caches where id = $7 on conflict do nothing
"""
_ID_BYTES: Final = 8
NANOSECONDS: Final = 1_000_000_000
# Longer than a transaction waits.
_SAME_CLOCK_NS: Final = 60 * NANOSECONDS


class SqlAudit(Transactions):
    """`Audit` in rows of the catalog."""

    @writes()
    def note(self, entries: Sequence[AuditEntry]) -> Transaction[None]:
        """As in `Audit`."""
        yield from note(entries)

    @reads
    def page(self, after: tuple[int, str] | None, limit: int) -> Transaction[Sequence[AuditEntry]]:
        """As in `Audit`."""
        at_ns, entry_id = after or (-1, "")
        rows = yield from ask(_PAGE, at_ns, entry_id, limit)
        return [
            AuditEntry(at_ns=at, id=id_, principal=who, action=what, cache=cache, subject=subject, detail=detail)
            for at, id_, who, what, cache, subject, detail in rows
        ]

    @writes()
    def prune(self, before_ns: int, limit: int) -> Transaction[int]:
        """As in `Audit`."""
        return len((yield from ask(_PRUNE, before_ns, limit)))


def _identity(now: Timestamp) -> tuple[int, str]:
    """The time of an entry and an id, by which entries are in the order in which they were made.

    `now` has whole seconds, and entries of commands, which stand between these, have nanoseconds. So the finer clock
    says the time, unless the two are different clocks.
    """
    at_ns, exact_ns = now * NANOSECONDS, time.time_ns()
    if 0 <= exact_ns - at_ns < _SAME_CLOCK_NS:
        at_ns = exact_ns
    return at_ns, f"{exact_ns:020d}-{secrets.token_hex(_ID_BYTES)}"


def note(entries: Iterable[AuditEntry]) -> Transaction[None]:
    """Write entries, as a part of a transaction."""
    rows = [
        (entry.at_ns, entry.id, entry.principal, entry.action, entry.cache, entry.subject, entry.detail)
        for entry in entries
    ]
    yield from ask_many(_NOTE, rows)


def note_in_cache(
    cache: CacheId, principal: str, action: str, subject: str, *, now: Timestamp, **detail: Any
) -> Transaction[None]:
    """Note what a transaction does, as part of it: neither is there without the other."""
    at_ns, entry_id = _identity(now)
    text = json.dumps(detail)
    entry = AuditEntry(at_ns=at_ns, id=entry_id, principal=principal, action=action, subject=subject, detail=text)
    yield noting_in_cache(cache, entry)


def quarantined(name: str, blob_key: str, now: Timestamp, **detail: Any) -> AuditEntry:
    """The entry of the quarantine of bytes, which is noted once under this name."""
    return AuditEntry(
        at_ns=now * NANOSECONDS,
        id=f"quarantine {name}",
        principal="server",
        action="quarantine",
        subject=blob_key,
        detail=json.dumps(detail),
    )


def noting_in_cache(cache: CacheId, entry: AuditEntry) -> Statement:
    """The statement that adds an entry, unless it is there, with the name of this cache."""
    values = (entry.at_ns, entry.id, entry.principal, entry.action, entry.subject, entry.detail)
    return Statement(_NOTE_IN_CACHE, (*values, cache))
