"""The port `DocumentIndex`: the documents of a cache, one after the other."""

from collections.abc import Sequence
from typing import Protocol

from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.objects import Document


class DocumentIndex(Protocol):
    """Documents in an order of their own. Raises `StorageError` when the catalog cannot tell."""

    async def page(self, cache: CacheId, after: Document | None, limit: int) -> Sequence[Document]:
        """Up to `limit` documents of objects that readers of the cache see, those that follow `after`."""
