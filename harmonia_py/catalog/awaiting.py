"""The port `Awaiting`: paths that wait for their references, of a cache whose pushes go into the local store."""

from collections.abc import Sequence
from typing import Protocol

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.objects import StoredObject
from harmonia_py.nix.store_path import HashPart


class Awaiting(Protocol):
    """Objects that wait for references which the local store lacks. `StorageError`: the catalog cannot tell."""

    async def arrived(self, cache: CacheId, hash_part: HashPart, *, now: Timestamp) -> Sequence[StoredObject]:
        """Note that the local store has this path, which waits no more itself.

        Returns:
            The objects that waited for this path and now wait for nothing. Their rows stay until they arrive.
        """

    async def forget(self, cache: CacheId, hash_part: HashPart, *, now: Timestamp) -> None:
        """Let an object wait no more, as the store refuses it for good; the audit log says so. Others go on waiting."""

    async def page(self, cache: CacheId, after: HashPart | None, limit: int) -> Sequence[StoredObject]:
        """Up to `limit` of the objects that wait, by hash part, from behind `after` on."""
