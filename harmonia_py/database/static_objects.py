"""`StaticObjects` over a database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.objects import Document, DocumentKind, StoredObject
from harmonia_py.database.object_rows import OBJECTS, READABLE, stored_object
from harmonia_py.database.transaction import Transaction, Transactions, ask_for_each, reads
from harmonia_py.nix.store_path import HashPart

_OBJECTS: Final = f"{OBJECTS} where o.cache_id = $1 and o.hash_part in ($list) and {READABLE}"
_LISTINGS: Final = """
    select name, size, blob_key, body from documents where cache_id = $1 and kind = $2 and name in ($list)
"""


class SqlStaticObjects(Transactions):
    """`StaticObjects` in rows of the catalog."""

    @reads
    def objects(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Transaction[Sequence[StoredObject]]:
        """As in `StaticObjects`."""
        rows = yield from ask_for_each(_OBJECTS, sorted(hash_parts), cache)
        return [stored_object(row) for row in rows]

    @reads
    def listings(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Transaction[Mapping[HashPart, Document]]:
        """As in `StaticObjects`."""
        kind = DocumentKind.LISTING
        return {
            HashPart(name): Document(
                kind=kind, name=name, size=size, blob_key=key, body=None if body is None else bytes(body)
            )
            for name, size, key, body in (yield from ask_for_each(_LISTINGS, sorted(hash_parts), cache, kind.value))
        }
