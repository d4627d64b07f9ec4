"""The port `DocumentChecks`: documents in files, read once more in one order, and how far that has come."""

from collections.abc import Sequence
from typing import Protocol

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.repairs import CacheDocument


class DocumentChecks(Protocol):
    """Documents whose bytes are in a blob. Each method raises `StorageError` when the catalog cannot tell."""

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
