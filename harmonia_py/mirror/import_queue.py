"""The order of imports: references first, each path as soon as it can be, none for ever. Decided from values alone.

A store takes a path only when it has all of its references. A path without them waits until they have come, from here
or otherwise: now and then it is looked at again, and after a while it is given up.
"""

import math
from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from msgspec import Struct, field

from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.bounded import Bounded

# Closures of systems have some thousand paths. A path that finds no place is wanted again when it is next asked for.
_MAX_PATHS: Final = 10_000
# Decided paths that are remembered, so that they are not looked at again for a while, however often they are wanted.
_MAX_DECIDED: Final = 65_536
# A path whose references have not come by then had a client that has them, or that has left.
_GIVE_UP_SECONDS: Final = 600.0
_FIRST_LOOK_SECONDS: Final = 2.0
_LONGEST_LOOK_SECONDS: Final = 60.0


class _Wanted(Struct):
    """A path that is ready or waits.

    Attributes:
        since: when the path was wanted first.
        look_at: when it is looked at again, while it waits.
        pause: how long it waited the last time.
        missing: the references for which it waits.
    """

    since: float
    look_at: float = 0.0
    pause: float = _FIRST_LOOK_SECONDS
    missing: frozenset[HashPart] = field(default_factory=frozenset)


class ImportQueue:
    """Paths on their way into a store. Times are seconds of one clock that only grows; callers pass them in."""

    def __init__(self) -> None:
        self._ready: OrderedDict[HashPart, _Wanted] = OrderedDict()
        self._waiting: OrderedDict[HashPart, _Wanted] = OrderedDict()
        self._current: tuple[HashPart, _Wanted] | None = None
        self._decided: Bounded[HashPart, float] = Bounded(_MAX_DECIDED)
        self._look_at = math.inf  # no path that waits is to be looked at before

    def __len__(self) -> int:
        """The number of paths that are ready or wait, with the one that is being imported."""
        return len(self._ready) + len(self._waiting) + (self._current is not None)

    def want(self, hash_part: HashPart, now: float) -> bool:
        """Queue a path; False when it is queued, was decided a while ago, or finds no place."""
        if hash_part in self._ready or hash_part in self._waiting or self._decided.get(hash_part, now) > now:
            return False
        if len(self) >= _MAX_PATHS:
            return False
        # Also the current path: it may be wanted because it has changed.
        self._ready[hash_part] = _Wanted(now)
        return True

    def next(self, now: float) -> HashPart | None:
        """The path to import now. It stays the current one until `decide`, `wait` or `drop` is called."""
        if self._look_at <= now:
            for hash_part in [one for one, wanted in self._waiting.items() if wanted.look_at <= now]:
                self._make_ready(hash_part)
            self._look_at = min((wanted.look_at for wanted in self._waiting.values()), default=math.inf)
        if not self._ready:
            return None
        hash_part, wanted = self._ready.popitem(last=False)
        self._current = hash_part, wanted
        return hash_part

    def seconds_to_next(self, now: float) -> float | None:
        """Seconds until `next` may give a path again, unless something happens; None: for ever."""
        if self._ready:
            return 0.0
        return max(0.0, self._look_at - now) if self._waiting else None

    def wait(self, missing: Collection[HashPart], now: float) -> bool:
        """Let the current path wait for these references, or, without any, for a while; False when it is given up."""
        hash_part, wanted = self._take()
        if now - wanted.since >= _GIVE_UP_SECONDS:
            self._note(hash_part, now + _GIVE_UP_SECONDS)
            return False
        if hash_part in self._ready:  # wanted anew meanwhile
            return True
        self._waiting[hash_part] = wanted
        wanted.look_at = now + wanted.pause
        self._look_at = min(self._look_at, wanted.look_at)
        wanted.pause = min(2 * wanted.pause, _LONGEST_LOOK_SECONDS)
        wanted.missing = frozenset(missing)
        return True

    def decide(self, now: float, seconds: float, *, valid: bool) -> None:
        """End the current path, which is in the store or will not be; it is not looked at again for so long."""
        hash_part, _ = self._take()
        self._note(hash_part, now + seconds)
        if valid:
            for waiter in sorted(one for one, wanted in self._waiting.items() if hash_part in wanted.missing):
                wanted = self._waiting[waiter]
                wanted.missing -= {hash_part}
                if not wanted.missing:
                    self._make_ready(waiter)

    def reconsider(self) -> None:
        """Forget all decisions: paths that are wanted from now on are looked at again."""
        self._decided.clear()

    def drop(self) -> None:
        """End the current path, of which nothing is kept yet."""
        self._take()

    def _take(self) -> tuple[HashPart, _Wanted]:
        assert self._current is not None
        current, self._current = self._current, None
        return current

    def _note(self, hash_part: HashPart, until: float) -> None:
        self._ready.pop(hash_part, None)
        self._decided[hash_part] = until

    def _make_ready(self, hash_part: HashPart) -> None:
        wanted = self._waiting.pop(hash_part)
        wanted.missing = frozenset()
        self._ready[hash_part] = wanted
