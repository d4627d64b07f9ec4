"""The standing of a path in a cache: what keeps it, and until when; for commands, pages and the API alike."""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, CacheRow, Timestamp, iso
from harmonia_py.catalog.objects import Keepers, ObjectIndex, Objects, StoredObject
from harmonia_py.catalog.reachability import WhyKept, why_kept
from harmonia_py.nix.store_path import HashPart, StorePath

# Referrers of a path that are looked at: any of them may lead to a reason.
_REFERRERS: Final = 1000
# A level of the search is asked for in portions, so that no question takes long.
_PORTION: Final = 256
# Referrers that are told by name; some paths are referenced by everything in a cache.
_TOLD: Final = 100


class PathState(StrEnum):
    """The state of a path that was pushed; docs/explanation describes each."""

    WAITING = "waiting"
    PUBLISHED = "published"
    CONDEMNED = "condemned"
    QUARANTINED = "quarantined"


class Standing(Struct, frozen=True, kw_only=True):
    """The standing of a path that was pushed to a cache.

    Attributes:
        cache: that has it.
        path: the path.
        state: its state.
        waits_for: the references for which it waits.
        stored: the object that readers see; None while it waits or is quarantined.
        keepers: what keeps the path itself, when it is published: pins, pushes under way, paths that reference it.
        referrers: those of these paths that readers see, by name, up to a hundred.
        reason: the shortest reason for which it is kept, when it is published; None when there is none.
        chain: the paths of `reason`, each referencing the next, down to this one; for readers those that they see.
        is_known: False when more paths lead to it than the search looks at, and none of them was a reason.
    """

    cache: CacheRow
    path: StorePath
    state: PathState
    waits_for: frozenset[HashPart] = frozenset()
    stored: StoredObject | None = None
    keepers: Keepers | None = None
    referrers: tuple[StorePath, ...] = ()
    reason: WhyKept | None = None
    chain: tuple[StorePath, ...] = ()
    is_known: bool = True

    @property
    def goes(self) -> Timestamp | None:
        """When it is removed, unless something asks for it before; None while it is not condemned."""
        since = None if self.stored is None else self.stored.condemned_since
        return None if since is None else Timestamp(since + self.cache.settings.grace)

    @property
    def used_until(self) -> Timestamp | None:
        """Until when its last use keeps it; None when no time ends that, or it is not published."""
        unused = self.cache.settings.keep_unused
        if unused is None or self.stored is None or self.state is not PathState.PUBLISHED:
            return None
        return Timestamp(self.stored.used + unused)

    def to_json(self) -> dict[str, Any]:
        """The standing as JSON, as the command and the API give it."""
        reason, keepers = self.reason, self.keepers
        return {
            "cache": self.cache.name,
            "path": self.path,
            "state": self.state,
            "by": None if reason is None else reason.by.value,
            "name": None if reason is None else reason.name,
            "chain": list(self.chain),
            "pins": [] if keepers is None else list(keepers.pins),
            "pushes": 0 if keepers is None else len(keepers.sessions),
            "referrers": list(self.referrers),
            "used": None if self.stored is None else iso(self.stored.used),
            "keep_unused": self.cache.settings.keep_unused,
            "used_until": iso(self.used_until),
            "goes": iso(self.goes),
            "waits_for": sorted(self.waits_for),
        }


class Standings(Struct, frozen=True, eq=False):
    """Finds the standing of paths.

    Attributes:
        objects: of all caches.
        index: of the same objects.
        most: paths that a search looks at.
        names_hidden: whether `chain` names paths that readers do not see as well: for who runs the server.
    """

    objects: Objects
    index: ObjectIndex
    most: int
    names_hidden: bool = False

    async def find(self, cache: CacheRow, hash_part: HashPart, *, now: Timestamp) -> Standing | None:
        """The standing of a path; None when it was not pushed to the cache. This is no use of the path.

        Raises:
            StorageError: the catalog cannot tell.
        """
        path = (await self.index.paths(cache.id, [hash_part])).get(hash_part)
        if path is None:
            return None
        waits = await self.index.waiting(cache.id, hash_part)
        if waits is not None:
            return Standing(cache=cache, path=path, state=PathState.WAITING, waits_for=waits)
        stored = await self.objects.find(cache.id, hash_part)
        if stored is None:
            return Standing(cache=cache, path=path, state=PathState.QUARANTINED)
        if stored.condemned_since is not None:
            return Standing(cache=cache, path=path, state=PathState.CONDEMNED, stored=stored)
        return await self._published(cache, stored, now)

    async def _published(self, cache: CacheRow, stored: StoredObject, now: Timestamp) -> Standing:
        path, unused = stored.path_info.store_path, cache.settings.keep_unused
        plan = why_kept(path.hash_part, None if unused is None else Timestamp(now - unused))
        level: Collection[HashPart] = next(plan)
        own = keepers = await self._keepers(cache.id, level, now)
        looked_at, reason, is_known = 1, None, True
        while is_known:
            try:
                level = plan.send(keepers)
            except StopIteration as stop:
                reason = stop.value
                break
            looked_at += len(level)
            is_known = looked_at <= self.most
            if is_known:
                keepers = await self._keepers(cache.id, level, now)
        chain = () if reason is None else reason.path
        names = await self.index.paths(cache.id, chain, shown=not self.names_hidden)
        its_own = own.get(path.hash_part)
        return Standing(
            cache=cache,
            path=path,
            state=PathState.PUBLISHED,
            stored=stored,
            keepers=its_own,
            referrers=() if its_own is None else await self._names(cache.id, its_own.referrers),
            reason=reason,
            chain=tuple(names[one] for one in chain if one in names),
            is_known=is_known,
        )

    async def _names(self, cache: CacheId, referrers: Sequence[HashPart]) -> tuple[StorePath, ...]:
        shown = await self.index.paths(cache, referrers[:_TOLD], shown=True)
        return tuple(sorted(shown.values(), key=lambda path: path.name))

    async def _keepers(self, cache: CacheId, level: Collection[HashPart], now: Timestamp) -> Mapping[HashPart, Keepers]:
        keepers: dict[HashPart, Keepers] = {}
        ordered = list(level)
        for start in range(0, len(ordered), _PORTION):
            portion = ordered[start : start + _PORTION]
            keepers |= await self.index.keepers(cache, portion, _REFERRERS, now=now)
        return keepers
