"""The port `StaticObjects`: objects as other programs read them, many at a time."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.objects import Document, StoredObject
from harmonia_py.nix.store_path import HashPart


class StaticObjects(Protocol):
    """Objects that readers see, for static narinfos: such a look is no use of an object, and revives none.

    Each method raises `StorageError` when the catalog cannot tell.
    """

    async def objects(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Sequence[StoredObject]:
        """The objects that readers of the cache see, of those asked for."""

    async def listings(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Mapping[HashPart, Document]:
        """The listings of those of these objects that have one."""
