"""The ports `DocumentIndex`, of what readers of a cache see, and `DocumentChecks`, of what is read again from files."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.objects import Document


class DocumentIndex(Protocol):
    """Documents in an order of their own. Raises `StorageError` when the catalog cannot tell."""

    async def page(self, cache: CacheId, after: Document | None, limit: int) -> Sequence[Document]:
        """Up to `limit` documents of objects that readers of the cache see, those that follow `after`."""


class CacheDocument(Struct, frozen=True):
    """A document of a cache whose bytes are in a blob.

    Attributes:
        cache: that has it.
        document: its name, size and key.
        received: when it came; another one of this name came at another time.
    """

    cache: CacheId
    document: Document
    received: Timestamp


class DocumentChecks(Protocol):
    """Documents whose bytes are in a blob. Each method raises `StorageError` when the catalog cannot tell."""

    async def in_blobs(self, after: CacheDocument | None, limit: int) -> Sequence[CacheDocument]:
        """Up to `limit` documents in blobs, in one order, those that follow `after`."""

    async def count(self) -> int:
        """The number of documents."""

    async def due(self, limit: int) -> Sequence[CacheDocument]:
        """Up to `limit` documents that follow the last one that was read; none at the end of a round."""

    async def passed(self, last: CacheDocument | None) -> None:
        """Note the last document that was read; None: the next round begins."""

    async def drop(self, document: CacheDocument, reason: str, *, now: Timestamp) -> bool:
        """Forget a document whose bytes are lost, and note the reason in the audit log; its bytes become garbage.

        False when the cache has another document of this name by now, or none.
        """
