"""The loop that collects: condemn, wait, look again while removing the rows, delete the bytes, forget their keys.

Each step is one small transaction, and between two of them others have their turn. Wherever the process is killed, the
next start goes on from what the rows say: condemned objects are looked at again, garbage is deleted again.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.collection import Candidate, Collected, Condemned, Garbage, Reason, Scope
from harmonia_py.catalog.collection import Collection as CollectionPort
from harmonia_py.catalog.objects import Sizes
from harmonia_py.catalog.paging import rows_of
from harmonia_py.catalog.portions import FIRST_ROWS, Portions
from harmonia_py.catalog.quota import Limits, excess, plan_quota
from harmonia_py.catalog.retention import Decision, plan_retention
from harmonia_py.catalog.room_wanted import RoomWanted
from harmonia_py.errors import StorageError
from harmonia_py.nix.store_path import HashPart

_log = logging.getLogger(__name__)

# Keys of one request to a store of blobs; S3 takes as many.
_DELETIONS: Final = 1000
# The part of `max_size` that is made free when a cache is too large: pushes go on while condemned objects have their
# grace.
_ROOM: Final = 0.1
# Bytes that could not be deleted are tried again after this time.
_POSTPONE_SECONDS: Final = 60
# A pass ends after so many, and the next decides anew: over a table that changes it could go on for ever.
_MOST_BATCHES: Final = 10_000

Delete = Callable[[Sequence[str]], Awaitable[Collection[str]]]
"""Deletes bytes by their keys, and returns the keys that could not be deleted. What is not there is deleted."""


class _Pages(Struct, eq=False):
    """The candidates of a cache, the longest unused first, a page at a time."""

    collector: "Collector"
    collection: CollectionPort
    scope: Scope
    batch: int
    now: Timestamp
    _after: tuple[Timestamp, HashPart] | None = None
    _page: Sequence[Candidate] = ()

    async def fill(self) -> bool:
        """Read the next page where this one is used up; False when no candidate is left."""
        if not self._page:
            self._page = await self.collection.candidates(self.scope.cache, self._after, self.batch, now=self.now)
        return bool(self._page)

    def oldest(self) -> Timestamp:
        """From when the age of the next candidate counts."""
        return self._page[0].aged_from

    def take(self, until: Timestamp | None) -> Sequence[Candidate]:
        """The next candidates, at least one: those of this page that were last used by `until` (None: all)."""
        count = sum(until is None or candidate.aged_from <= until for candidate in self._page)
        taken, self._page = self._page[:count], self._page[count:]
        self._after = (taken[-1].aged_from, taken[-1].hash_part)
        return taken


class Collector:
    """Collects one cache after the other. Of all processes that share a catalog, one at a time runs it.

    Args:
        collection: the objects, to be read and changed.
        garbage: the keys of bytes to delete.
        delete: deletes bytes.
        sizes: tells the sizes of caches; without it no cache is held to its `max_size`.
        wanted: tells which files found no room; without it, room is made only for files that have come.
        batch: rows of a transaction; unset: as many as take a short time.
    """

    def __init__(
        self,
        collection: CollectionPort,
        garbage: Garbage,
        delete: Delete,
        *,
        sizes: Sizes | None = None,
        wanted: RoomWanted | None = None,
        batch: int | None = None,
    ) -> None:
        self._collection = collection
        self._garbage = garbage
        self._delete = delete
        self._sizes = sizes
        self._wanted = wanted
        self._batch = batch or FIRST_ROWS
        self._condemning = Portions(batch)
        self._removing = Portions(batch)

    async def collect(self, scope: Scope, now: Timestamp) -> Collected:
        """Condemn objects that were not used for too long, and remove those that were condemned for long enough.

        Raises:
            StorageError: the catalog cannot tell; what was done before stays done.
        """
        unused = 0 if scope.deleted else scope.settings.keep_unused
        condemned = 0
        if unused is not None:
            reason = Reason.DELETED if scope.deleted else Reason.UNUSED
            condemned = await self.condemn_unused(scope, reason, Timestamp(now - unused), now)
        grace = 0 if scope.deleted else scope.settings.grace
        return replace(await self.remove(scope, Timestamp(now - grace), now), condemned=condemned)

    async def condemn_unused(self, scope: Scope, reason: Reason, unused_since: Timestamp, now: Timestamp) -> int:
        """Condemn objects that nothing keeps and nothing has used after `unused_since`; returns their number."""
        condemned, after = 0, None
        for _ in range(_MOST_BATCHES):
            page = await self._collection.candidates(scope.cache, after, self._condemning.size, now=now)
            if not page or page[0].aged_from > unused_since:
                break
            after = (page[-1].aged_from, page[-1].hash_part)
            while page:
                decision = plan_retention(page, unused_since=unused_since, now=now)
                with self._condemning.timed() as took:
                    gone = await self._carry_out(scope, decision, reason, unused_since, now)
                    took(len(gone.objects))
                condemned += len(gone.objects)
                page = gone.next
        return condemned

    def pages(self, scope: Scope, now: Timestamp) -> _Pages:
        """The candidates of a cache, the longest unused first."""
        return _Pages(self, self._collection, scope, self._batch, now)

    async def make_room_among(
        self, scope: Scope, candidates: Sequence[Candidate], too_much: int, now: Timestamp
    ) -> tuple[int, int]:
        """Condemn some of these candidates, and what they alone kept, until so many bytes go."""
        objects, size = 0, 0
        # An object that only a root kept, and that was used later than all of these, comes up with a later page.
        unused_since = candidates[-1].aged_from
        while candidates and size < too_much:
            decision = plan_quota(candidates, too_much - size, now=now)
            condemned = await self._carry_out(scope, decision, Reason.QUOTA, unused_since, now)
            objects += len(condemned.objects)
            size += condemned.size
            candidates = condemned.next
        await self._garbage.drop_documents(scope.cache, unused_since, self._batch, now=now)
        return objects, size

    async def remove(self, scope: Scope, condemned_before: Timestamp, now: Timestamp) -> Collected:
        """Remove the rows of objects that were condemned before and that nothing keeps at this moment."""
        done = Collected()
        for _ in range(_MOST_BATCHES):
            with self._removing.timed() as took:
                removed = await self._collection.remove(scope.cache, condemned_before, self._removing.size, now=now)
                took(len(removed.objects) + len(removed.revived))
            done += Collected(removed=len(removed.objects), removed_size=removed.size, revived=len(removed.revived))
            if not removed.objects and not removed.revived:
                break
        return done

    async def sweep(self, now: Timestamp) -> Collected:
        """Give up pushes that are dead, with what they brought."""
        done = Collected()
        for _ in range(_MOST_BATCHES):
            swept = await self._garbage.sweep(self._batch, now=now)
            done += swept
            if swept == Collected():
                break
        return done

    async def drop_documents(self, scope: Scope, before: Timestamp, now: Timestamp) -> None:
        """Drop documents that came before, whose push has ended and whose objects are not here."""
        for _ in range(_MOST_BATCHES):
            if not await self._garbage.drop_documents(scope.cache, before, self._batch, now=now):
                break

    async def empty_garbage(self, now: Timestamp) -> Collected:
        """Delete bytes that no row names any more, then forget their keys."""
        deleted = 0
        for _ in range(_MOST_BATCHES):
            keys = await self._garbage.claim(_DELETIONS, now=now)
            if not keys:
                break
            failed = set(await self._deleted(keys))
            if failed:
                await self._garbage.postpone(failed, Timestamp(now + _POSTPONE_SECONDS))
            done = set(keys) - failed
            await self._garbage.forget(done)
            deleted += len(done)
        return Collected(deleted=deleted)

    async def run(self, now: Timestamp) -> Collected:
        """One pass over all caches: sweep, condemn, remove, then delete garbage.

        Raises:
            StorageError: the catalog cannot tell; what was done before stays done.
        """
        done = await self.sweep(now)
        async for scope in self._all_scopes():
            await self._keep_limit(scope, now)
            done += await self.collect(scope, now)
            if scope.deleted:
                # Such as logs of derivations that were never pushed themselves.
                await self.drop_documents(scope, now, now)
        return done + await self.empty_garbage(now)

    async def scopes(self) -> list[Scope]:
        """All caches of the catalog that are not deleted.

        Raises:
            StorageError: the catalog cannot tell.
        """
        return [scope async for scope in self._all_scopes() if not scope.deleted]

    def _all_scopes(self) -> AsyncIterator[Scope]:
        return rows_of(self._collection.scopes, lambda scope: scope.cache, size=self._batch)

    async def _keep_limit(self, scope: Scope, now: Timestamp) -> None:
        """Condemn what is beyond the `max_size` of a cache, or in the way of a file that found no room in it."""
        limits = Limits(max_size=scope.settings.max_size)
        if self._sizes is None or limits.max_size is None or scope.deleted:
            return
        size = await self._sizes.size(scope.cache)
        # Files that are not published yet count as well, as they do when a push is refused for want of room.
        stays = size.size - size.condemned_size + size.incoming_size
        wanted = 0 if self._wanted is None else await self._wanted.wanted(scope.cache, now=now)
        too_much = excess(stays, limits, 0, wanted=wanted)
        if too_much > 0:
            await make_room([(self, scope)], too_much + int(_ROOM * limits.max_size), now)

    async def _carry_out(
        self, scope: Scope, decision: Decision, reason: Reason, unused_since: Timestamp, now: Timestamp
    ) -> Condemned:
        """Write a decision to the catalog."""
        if decision.age:
            await self._collection.age(scope.cache, decision.age)
        if not decision.condemn:
            return Condemned()
        return await self._collection.condemn(scope.cache, decision.condemn, reason, unused_since=unused_since, now=now)

    async def _deleted(self, keys: Sequence[str]) -> Collection[str]:
        try:
            return await self._delete(keys)
        except StorageError as error:
            _log.warning("cannot delete what no cache has any more: %s", error)
            return keys


async def make_room(sides: Sequence[tuple[Collector, Scope]], too_much: int, now: Timestamp) -> tuple[int, int]:
    """Condemn the longest unused of several caches until so many bytes go; returns how many objects and bytes go.

    Roots go first, then what only they kept. An object that something keeps stays, even if there is no room then.

    Args:
        sides: the caches, of one catalog or of several, each with its collector.
        too_much: bytes to free.
        now: the time.

    Raises:
        StorageError: a catalog cannot tell; what was condemned before stays condemned.
    """
    objects, size = 0, 0
    pages = [collector.pages(scope, now) for collector, scope in sides]
    for _ in range(_MOST_BATCHES):
        pages = [page for page in pages if await page.fill()]
        if not pages or size >= too_much:
            break
        pages.sort(key=_Pages.oldest)
        until = pages[1].oldest() if len(pages) > 1 else None
        oldest = pages[0]
        gone = await oldest.collector.make_room_among(oldest.scope, oldest.take(until), too_much - size, now)
        objects, size = objects + gone[0], size + gone[1]
    return objects, size
