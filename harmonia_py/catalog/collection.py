"""The ports of the collector: `Collection`, `Garbage`, and `Survey` for people. All in small transactions."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Set
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Protocol, Self

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, CacheSettings, Timestamp
from harmonia_py.nix.store_path import HashPart, StorePath

Collecting = Callable[[float], AbstractAsyncContextManager[bool]]
"""Makes this process the one that collects, of all that share a catalog; it waits so many seconds at most.

The context gives False when another process collects for longer than that.
"""


class Reason(Enum):
    """The reason for which an object is condemned."""

    UNUSED = "unused"
    QUOTA = "quota"
    DELETED = "deleted"


class Candidate(Struct, frozen=True, kw_only=True):
    """A published object that may be condemned, with everything that may keep it.

    Attributes:
        hash_part: of its path.
        size: bytes of its file.
        aged_from: from when its age counts: its last use, or that of what was seen to keep it, as far as is known.
        pinned: whether a pin names it, in a revision that is kept.
        leased: whether a live session was told that it is here.
        referrer_aged_from: the latest `aged_from` of a few of the objects that reference it and are not condemned, any
            of them; None when there is none.
    """

    hash_part: HashPart
    size: int
    aged_from: Timestamp
    pinned: bool
    leased: bool
    referrer_aged_from: Timestamp | None


class Condemned(Struct, frozen=True, kw_only=True):
    """The objects that a transaction condemned.

    Attributes:
        objects: rows that were condemned.
        size: bytes of their files.
        next: the published objects that only these reference: perhaps nothing keeps them any more.
    """

    objects: frozenset[HashPart] = frozenset()
    size: int = 0
    next: tuple[Candidate, ...] = ()


class Removed(Struct, frozen=True, kw_only=True):
    """The objects that a transaction removed.

    Attributes:
        objects: rows that went.
        size: bytes of their files.
        revived: condemned objects that something keeps again.
    """

    objects: tuple[HashPart, ...] = ()
    size: int = 0
    revived: tuple[HashPart, ...] = ()


class Scope(Struct, frozen=True, kw_only=True):
    """A cache to be collected.

    Attributes:
        cache: its number.
        settings: what it keeps.
        deleted: whether the cache is deleted, so that all its objects go.
    """

    cache: CacheId
    settings: CacheSettings
    deleted: bool


class Figures(Struct, frozen=True):
    """Numbers that add up, each by itself."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class Collected(Figures, frozen=True, kw_only=True):
    """The figures of a pass, or of a step of it.

    Attributes:
        condemned: objects that were condemned.
        removed: objects whose rows went.
        removed_size: bytes of their files.
        revived: condemned objects that something keeps after all.
        swept: pushes that were given up.
        swept_files: files of NARs that these, and pushes that live on, brought or began to bring and never published.
        waited: objects that waited for their references for too long.
        deleted: keys whose bytes were deleted.
    """

    condemned: int = 0
    removed: int = 0
    removed_size: int = 0
    revived: int = 0
    swept: int = 0
    swept_files: int = 0
    waited: int = 0
    deleted: int = 0


class Collection(Protocol):
    """Objects as the collector reads and changes them.

    Each method is one transaction over a bounded number of rows, and raises `StorageError`.
    """

    async def scopes(self, after: CacheId | None, limit: int) -> Sequence[Scope]:
        """Up to `limit` caches, also those without a name and deleted ones, those that follow `after`."""

    async def candidates(
        self, cache: CacheId, after: tuple[Timestamp, HashPart] | None, limit: int, *, now: Timestamp
    ) -> Sequence[Candidate]:
        """Up to `limit` published objects, the longest unused first, those that follow `after`."""

    async def condemn(
        self, cache: CacheId, hash_parts: Set[HashPart], reason: Reason, *, unused_since: Timestamp, now: Timestamp
    ) -> Condemned:
        """Condemn objects, except those that something keeps at this moment or that were used after `unused_since`."""

    async def age(self, cache: CacheId, aged_from: Mapping[HashPart, Timestamp]) -> None:
        """Note for objects a later time from which their age counts: that of the use of what keeps them."""

    async def remove(self, cache: CacheId, condemned_before: Timestamp, limit: int, *, now: Timestamp) -> Removed:
        """Remove the rows of up to `limit` objects condemned before, except those that something keeps by now.

        What keeps one revives it and what it references. Files that no object names any more become garbage.
        """


class CondemnedObject(Struct, frozen=True, kw_only=True):
    """A condemned object.

    Attributes:
        path: its store path.
        size: bytes of its file.
        reason: for which it was condemned.
        since: when it was condemned.
        rank: greater than that of all that reference it.
        used: when it was last asked for.
    """

    path: StorePath
    size: int
    reason: Reason
    since: Timestamp
    rank: int
    used: Timestamp

    @property
    def place(self) -> tuple[Timestamp, int, HashPart]:
        """Its place among all condemned objects, in the order in which they are removed."""
        return self.since, self.rank, self.path.hash_part


class Inventory(Struct, frozen=True, kw_only=True):
    """Numbers over all caches.

    Attributes:
        pins: number of pins.
        pinned: objects that a pin names, in a revision that is kept.
        garbage: keys of bytes that no row names and that are not deleted yet.
    """

    pins: int
    pinned: int
    garbage: int


class Survey(Protocol):
    """Condemned and kept objects, for people. Each method raises `StorageError` when the catalog cannot tell."""

    async def condemned(
        self, cache: CacheId, after: tuple[Timestamp, int, HashPart] | None, limit: int
    ) -> Sequence[CondemnedObject]:
        """Up to `limit` condemned objects in the order in which they go, those that follow this place."""

    async def closure_size(self, cache: CacheId, hash_part: HashPart) -> tuple[int, int]:
        """How many objects an object reaches, itself among them, and the bytes of their files."""

    async def inventory(self, *, now: Timestamp) -> Inventory:
        """The numbers of pins, of pinned objects and of keys to delete."""


class Garbage(Protocol):
    """Keys of bytes that no row names any more. Each method raises `StorageError`.

    Only the process that holds the housekeeping lock deletes, one at a time over all processes.
    """

    async def sweep(self, limit: int, *, now: Timestamp) -> Collected:
        """End up to `limit` sessions that have shown no sign of life for too long, and what waited for too long.

        Leases end, and files, documents and objects that came and were never published go; of sessions that live on,
        files and documents that have waited for a week. A deleted cache that has nothing any more goes as well.
        """

    async def drop_documents(self, cache: CacheId, before: Timestamp, limit: int, *, now: Timestamp) -> int:
        """Drop up to `limit` documents that came before, without a push, and whose objects are not here."""

    async def claim(self, limit: int, *, now: Timestamp) -> Sequence[str]:
        """Up to `limit` keys to delete; from now on nothing can be written under them until they are forgotten."""

    async def forget(self, blob_keys: Set[str]) -> None:
        """Drop keys whose bytes are deleted."""

    async def postpone(self, blob_keys: Set[str], until: Timestamp) -> None:
        """Put off keys whose bytes could not be deleted."""
