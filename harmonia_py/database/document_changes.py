"""The documents of an object: put in the place of earlier ones, and kept by the object."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.objects import Document, DocumentKind, Publication
from harmonia_py.database.blob_keys import list_as_garbage, take_from_garbage
from harmonia_py.database.transaction import Statement, Transaction, ask_for_each, do_together

_FORMER_DOCUMENTS: Final = """
    select blob_key from documents where cache_id = $1 and kind = $2 and name in ($list) and blob_key is not null
"""
_PUT_DOCUMENT: Final = """
    insert into documents (cache_id, kind, name, size, blob_key, body, session_id, received_s)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict (cache_id, kind, name) do update set size = excluded.size, blob_key = excluded.blob_key,
        body = excluded.body, session_id = excluded.session_id, received_s = excluded.received_s
"""
KEEP_DOCUMENT: Final = """
    insert into object_documents (cache_id, hash_part, kind, name) values ($1, $2, $3, $4) on conflict do nothing
"""


class DocumentChanges(Struct, frozen=True):
    """The statements that put documents, and the keys of the documents that they replace."""

    statements: list[Statement]
    replaced: list[str]


def documents_of(publication: Publication, now: Timestamp) -> Transaction[DocumentChanges]:
    """The changes that put the documents of a publication, and those that came before it, beside its object."""
    cache, info = publication.cache, publication.path_info
    documents = {(document.kind, document.name): document for document in publication.documents}
    changes = yield from _document_changes(cache, documents, publication.session, now)
    attached = {*documents, *publication.attached}
    if info.deriver is not None:
        attached |= {(DocumentKind.LOG, str(info.deriver))}
    edges = [(cache, info.store_path.hash_part, kind.value, name) for kind, name in attached]
    changes.statements.append(Statement(KEEP_DOCUMENT, (), sorted(edges)))
    return changes


def _document_changes(
    cache: CacheId, documents: Mapping[tuple[DocumentKind, str], Document], session: str | None, now: Timestamp
) -> Transaction[DocumentChanges]:
    names: dict[DocumentKind, list[str]] = {}
    for (kind, name), document in documents.items():
        names.setdefault(kind, []).append(name)
        if document.blob_key is not None:
            yield from take_from_garbage(document.blob_key)
    replaced: set[str] = set()
    for kind, of_kind in names.items():
        rows = yield from ask_for_each(_FORMER_DOCUMENTS, sorted(of_kind), cache, kind.value)
        replaced |= {row[0] for row in rows}
    put = [
        (cache, kind.value, name, document.size, document.blob_key, document.body, session, now)
        for (kind, name), document in documents.items()
    ]
    kept = {document.blob_key for document in documents.values()}
    return DocumentChanges([Statement(_PUT_DOCUMENT, (), put)], sorted(replaced - kept))


def put_document(cache: CacheId, document: Document, session: str | None, now: Timestamp) -> Transaction[None]:
    """Keep a document in the place of an earlier one, whose bytes become garbage."""
    changes = yield from _document_changes(cache, {(document.kind, document.name): document}, session, now)
    yield from do_together(changes.statements)
    yield from list_as_garbage(changes.replaced, now)
