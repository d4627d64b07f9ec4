"""`DocumentIndex` over a database."""

from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.database.object_rows import READABLE
from harmonia_py.database.transaction import Transaction, Transactions, ask, scans

_PAGE: Final = f"""
    select d.kind, d.name, d.size, d.blob_key, d.body from documents d
    where d.cache_id = $1 and (d.kind, d.name) > ($2, $3) and exists (
        select 1 from object_documents e
            join objects o on o.cache_id = e.cache_id and o.hash_part = e.hash_part
        where e.cache_id = d.cache_id and e.kind = d.kind and e.name = d.name and {READABLE}
    ) order by d.kind, d.name limit $4
"""


class SqlDocuments(Transactions):
    """`DocumentIndex` in rows of the catalog."""

    @scans
    def page(self, cache: CacheId, after: Document | None, limit: int) -> Transaction[Sequence[Document]]:
        """As in `DocumentIndex`."""
        key = ("", "") if after is None else (after.kind.value, after.name)
        return [
            Document(
                kind=DocumentKind(kind),
                name=name,
                size=size,
                blob_key=blob_key,
                body=None if body is None else bytes(body),
            )
            for kind, name, size, blob_key, body in (yield from ask(_PAGE, cache, *key, limit))
        ]
