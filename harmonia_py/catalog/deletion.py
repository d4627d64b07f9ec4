"""Paths deleted by hand: at once, and never while something references them."""

from collections.abc import Collection
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.nix.store_path import HashPart, StorePath

# Rows of one transaction, as in the collector.
_BATCH: Final = 256
# A closure is not deeper than this; a collection that runs beside it takes what is left.
_MOST_BATCHES: Final = 10_000


class Obstacle(Struct, frozen=True, kw_only=True):
    """The reasons for which a path cannot be deleted.

    Attributes:
        path: that cannot be deleted.
        referrers: some of the paths that reference it.
        pins: names of the pins that name it, in a revision that is kept.
        sessions: ids of the pushes under way that were told that it is here.
    """

    path: StorePath
    referrers: tuple[StorePath, ...] = ()
    pins: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()

    def words(self, despite_pushes: str) -> str:
        """For the person that wants to delete it; `despite_pushes`: how that is asked for where a push counts on it."""
        reasons = [f"the pin {pin} names it" for pin in self.pins]
        reasons += [f"{referrer} references it" for referrer in self.referrers]
        if self.sessions:
            reasons.append(f"a push was told within a day that it is here ({despite_pushes} deletes it all the same)")
        return f"{self.path} stays: {'; '.join(reasons)}"


class Deleted(Struct, frozen=True, kw_only=True):
    """The result of one transaction.

    Attributes:
        paths: that were deleted.
        size: bytes of their files.
        obstacles: of the paths that were not deleted.
        references: what the deleted paths referenced and the cache has: perhaps nothing else references them.
    """

    paths: tuple[StorePath, ...] = ()
    size: int = 0
    obstacles: tuple[Obstacle, ...] = ()
    references: frozenset[HashPart] = frozenset()


class Deletions(Protocol):
    """Deletion by hand."""

    async def delete(
        self,
        cache: CacheId,
        hash_parts: Collection[HashPart],
        *,
        deleted_by: str,
        despite_pushes: bool = False,
        now: Timestamp,
    ) -> Deleted:
        """Delete, in one transaction, those of these that the cache has and no obstacle keeps.

        Args:
            cache: to delete from.
            hash_parts: of the paths.
            deleted_by: the principal.
            despite_pushes: also paths that pushes under way were told are here: they have to bring them again.
            now: the time.

        Raises:
            StorageError: the catalog cannot tell.
        """


async def delete_closure(
    deletions: Deletions,
    cache: CacheId,
    hash_part: HashPart,
    *,
    deleted_by: str,
    despite_pushes: bool = False,
    now: Timestamp,
) -> Deleted:
    """Delete a path, then what it alone kept, level by level; each transaction leaves a cache in which all is whole.

    Raises:
        StorageError: the catalog cannot tell; what was deleted before stays deleted.
    """
    gone = await deletions.delete(cache, [hash_part], deleted_by=deleted_by, despite_pushes=despite_pushes, now=now)
    if gone.obstacles:
        return gone
    paths, size, pending = list(gone.paths), gone.size, set(gone.references)
    for _ in range(_MOST_BATCHES):
        if not pending:
            break
        batch = sorted(pending)[:_BATCH]
        more = await deletions.delete(cache, batch, deleted_by=deleted_by, despite_pushes=despite_pushes, now=now)
        pending = (pending - set(batch)) | more.references
        paths += more.paths
        size += more.size
    return Deleted(paths=tuple(paths), size=size)
