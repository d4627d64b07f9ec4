"""`DocumentIndex` and `DocumentChecks` over a database."""

from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.documents import CacheDocument
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.database.audit import noting_in_cache, quarantined
from harmonia_py.database.blob_keys import list_as_garbage
from harmonia_py.database.object_rows import OBJECTS_OF_DOCUMENT, READABLE, document_of
from harmonia_py.database.ports import Transactions, scans, writes
from harmonia_py.database.progress import note, noted
from harmonia_py.database.transaction import Row, Topic, Transaction, ask, ask_number

_PAGE: Final = f"""
    select d.kind, d.name, d.size, d.blob_key, d.body from documents d
    where d.cache_id = $1 and (d.kind, d.name) > ($2, $3) and exists ({OBJECTS_OF_DOCUMENT} and {READABLE})
    order by d.kind, d.name limit $4
"""
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
_JOB: Final = "documents"
_BEGIN: Final = (0, "", "")


class SqlDocuments(Transactions):
    """`DocumentIndex` and `DocumentChecks` in rows of the catalog."""

    @scans
    def page(self, cache: CacheId, after: Document | None, limit: int) -> Transaction[Sequence[Document]]:
        """As in `DocumentIndex`."""
        key = ("", "") if after is None else (after.kind.value, after.name)
        return [document_of(DocumentKind(row[0]), row[1:]) for row in (yield from ask(_PAGE, cache, *key, limit))]

    @scans
    def in_blobs(self, after: CacheDocument | None, limit: int) -> Transaction[Sequence[CacheDocument]]:
        """As in `DocumentChecks`."""
        return _following(_BEGIN if after is None else _key_of(after), limit)

    @scans
    def count(self) -> Transaction[int]:
        """As in `DocumentChecks`."""
        return ask_number(_COUNT)

    @scans
    def due(self, limit: int) -> Transaction[Sequence[CacheDocument]]:
        """As in `DocumentChecks`."""
        place = yield from noted(_JOB, tuple[int, str, str])
        return (yield from _following(place or _BEGIN, limit))

    @writes(durable=False)
    def passed(self, last: CacheDocument | None) -> Transaction[None]:
        """As in `DocumentChecks`."""
        place = _BEGIN if last is None else _key_of(last)
        yield from note(_JOB, place)

    @writes(Topic.OBJECTS, Topic.REMOVALS)
    def drop(self, document: CacheDocument, reason: str, *, now: Timestamp) -> Transaction[bool]:
        """As in `DocumentChecks`."""
        one = document.document
        if not (yield from ask(_DROP, *_key_of(document), one.blob_key, one.size, document.received)):
            return False
        assert one.blob_key is not None
        yield noting_in_cache(document.cache, quarantined(one.blob_key, one.blob_key, now, reason=reason))
        yield from list_as_garbage([one.blob_key], now)
        return True


def _following(place: Sequence[int | str], limit: int) -> Transaction[list[CacheDocument]]:
    """Up to `limit` documents in blobs, those that follow a place in the order of cache, kind and name."""
    return [_document(row) for row in (yield from ask(_FOLLOWING, *place, limit))]


def _key_of(document: CacheDocument) -> tuple[int, str, str]:
    """The place of a document in that order."""
    return document.cache, document.document.kind.value, document.document.name


def _document(row: Row) -> CacheDocument:
    cache, kind, name, size, blob_key, received = row
    document = Document(kind=DocumentKind(kind), name=name, size=size, blob_key=blob_key)
    return CacheDocument(CacheId(cache), document, Timestamp(received))
