"""The port `Repairs`: questions and changes of `fsck`, beside a running server."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart


class WrongTotal(Struct, frozen=True):
    """A running total that is not the sum of its rows.

    Attributes:
        cache: whose total it is; None for the files of all caches.
        state: of the objects; `stored` for files.
        told: their number, and bytes of their files, by the total.
        counted: the two by counting.
    """

    cache: CacheId | None
    state: str
    told: tuple[int, int]
    counted: tuple[int, int]


class Repairs(Protocol):
    """Each method is one transaction, and raises `StorageError` when the catalog cannot tell or change it."""

    async def unnamed(self, blob_keys: Collection[str]) -> Collection[str]:
        """The keys that no row names: of no file, no document, nothing that a push brings, nothing to be deleted."""

    async def known_paths(self, cache: CacheName, hash_parts: Collection[HashPart]) -> Mapping[HashPart, bool]:
        """The paths that a cache of this name has, also a deleted cache, each with whether it is made of chunks."""

    async def discard(self, blob_keys: Collection[str], *, garbage_from: Timestamp) -> None:
        """List the keys that no row names at this moment for the collector to delete from `garbage_from` on."""

    async def restore(self, file_hash: Hash, *, now: Timestamp) -> None:
        """End the quarantine of a file whose bytes are there and right, and show the objects that lacked them."""

    async def renew_static(self, cache: CacheId, hash_parts: Collection[HashPart], *, now: Timestamp) -> None:
        """List the narinfos that other programs read to be written anew, or deleted where readers see no object."""

    async def wrong_totals(self) -> Sequence[WrongTotal]:
        """The running totals that are wrong.

        All objects and files are counted for that, a million in a second. If that takes longer than the ten seconds of
        a transaction, it raises.
        """

    async def count_anew(self) -> None:
        """Set all running totals to what counting says. It takes as long as `wrong_totals`, and raises as that does."""
