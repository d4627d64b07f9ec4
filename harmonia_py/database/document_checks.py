"""`DocumentChecks` over a database."""

import json
from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.catalog.repairs import CacheDocument
from harmonia_py.database.object_rows import list_as_garbage
from harmonia_py.database.progress import note, noted
from harmonia_py.database.transaction import Row, Topic, Transaction, Transactions, ask, ask_number, scans, writes

_COUNT: Final = "select count(*) from documents where blob_key is not null"
_FOLLOWING: Final = """
    select cache_id, kind, name, size, blob_key, received_s from documents
    where blob_key is not null and (cache_id, kind, name) > ($1, $2, $3) order by cache_id, kind, name limit $4
"""
_DROP: Final = """
    delete from documents
    where cache_id = $1 and kind = $2 and name = $3 and blob_key = $4 and size = $5 and received_s = $6
    returning blob_key
"""
_NOTE: Final = """
    insert into audit (at_ns, id, principal, action, cache, subject, detail)
    select $2, 'quarantine ' || $3, 'server', 'quarantine', c.name, $3, $4 from caches c where c.id = $1
    on conflict do nothing
"""
_JOB: Final = "documents"
_BEGIN: Final = (0, "", "")
_NANOSECONDS: Final = 1_000_000_000


class SqlDocumentChecks(Transactions):
    """`DocumentChecks` in rows of the catalog."""

    @scans
    def count(self) -> Transaction[int]:
        """As in `DocumentChecks`."""
        return ask_number(_COUNT)

    @scans
    def due(self, limit: int) -> Transaction[Sequence[CacheDocument]]:
        """As in `DocumentChecks`."""
        place = yield from noted(_JOB, tuple[int, str, str])
        return (yield from following(place or _BEGIN, limit))

    @writes(durable=False)
    def passed(self, last: CacheDocument | None) -> Transaction[None]:
        """As in `DocumentChecks`."""
        place = _BEGIN if last is None else key_of(last)
        yield from note(_JOB, place)

    @writes(Topic.OBJECTS, Topic.REMOVALS)
    def drop(self, document: CacheDocument, reason: str, *, now: Timestamp) -> Transaction[bool]:
        """As in `DocumentChecks`."""
        one = document.document
        if not (yield from ask(_DROP, *key_of(document), one.blob_key, one.size, document.received)):
            return False
        detail = json.dumps({"reason": reason})
        yield from ask(_NOTE, document.cache, now * _NANOSECONDS, one.blob_key, detail)
        yield from list_as_garbage([one.blob_key], now)
        return True


def following(place: Sequence[int | str], limit: int) -> Transaction[list[CacheDocument]]:
    """Up to `limit` documents in blobs, those that follow a place in the order of cache, kind and name."""
    return [_document(row) for row in (yield from ask(_FOLLOWING, *place, limit))]


def key_of(document: CacheDocument) -> tuple[int, str, str]:
    """The place of a document in that order."""
    return document.cache, document.document.kind.value, document.document.name


def _document(row: Row) -> CacheDocument:
    cache, kind, name, size, blob_key, received = row
    document = Document(kind=DocumentKind(kind), name=name, size=size, blob_key=blob_key)
    return CacheDocument(CacheId(cache), document, Timestamp(received))
