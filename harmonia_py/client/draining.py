"""A queue emptied into a cache, for as long as a service runs, and at its end up to a deadline."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Final

from msgspec import Struct

from harmonia_py.client.outcomes import Summary
from harmonia_py.client.push_queue import PushQueue
from harmonia_py.errors import HarmoniaError, StorePathChanged
from harmonia_py.nix.store_path import StoreDir, StorePath

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 200
_LOOK_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0
# A refusal may come of what another push is doing at this moment; a third one does not.
_ATTEMPTS: Final = 3

PushPaths = Callable[[Collection[StorePath]], Awaitable[Summary]]


class Drained(Struct, frozen=True):
    """The state of a queue after it was emptied.

    Attributes:
        is_empty: whether nothing waits.
        aside: number of paths that were set aside meanwhile.
    """

    is_empty: bool
    aside: int


class Draining:
    """Empties the queue of a hook: pushes its paths, and sets aside those that cannot be pushed.

    Args:
        queue: that is emptied.
        push: pushes closures.
        store_dir: of the paths.
    """

    def __init__(self, queue: PushQueue, push: PushPaths, store_dir: StoreDir) -> None:
        self._queue = queue
        self._push = push
        self._store_dir = store_dir
        self._attempts: Counter[StorePath] = Counter()
        self._aside = 0

    async def run(self, ending: asyncio.Event, deadline: float) -> Drained:
        """Push paths as they come until `ending` is set, then those that are left, for at most `deadline` seconds."""
        loop, pause = asyncio.get_running_loop(), _LOOK_SECONDS
        end: float | None = None
        while True:
            if ending.is_set() and end is None:
                end, pause = loop.time() + deadline, _LOOK_SECONDS
            names = await asyncio.to_thread(self._queue.entries, _AT_ONCE)
            if not names and end is not None:
                return Drained(is_empty=True, aside=self._aside)
            if end is not None and loop.time() > end:
                return Drained(is_empty=False, aside=self._aside)
            try:
                async with asyncio.timeout_at(end):
                    is_good = not names or await self._push_entries(names)
            except TimeoutError:
                continue
            pause = _LOOK_SECONDS if is_good else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            if not names or not is_good:
                await self._wait(ending if end is None else None, pause, end)

    async def _wait(self, ending: asyncio.Event | None, seconds: float, end: float | None) -> None:
        if end is not None:
            seconds = min(seconds, max(0.0, end - asyncio.get_running_loop().time()))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await (asyncio.Event() if ending is None else ending).wait()

    async def _push_entries(self, names: Collection[str]) -> bool:
        """Push what these entries name; False when the server cannot be reached, or refuses all of it."""
        entries: Mapping[str, Collection[StorePath]] = {
            name: await asyncio.to_thread(self._queue.read, name, self._store_dir) for name in names
        }
        paths = list(dict.fromkeys(path for entry in entries.values() for path in entry))
        failed = await self._failures(paths) if paths else {}
        if failed is None:
            return False
        again: set[StorePath] = set()
        for path, reason in failed.items():
            self._attempts[path] += 1
            if self._attempts[path] < _ATTEMPTS:
                again.add(path)
                continue
            del self._attempts[path]
            self._aside += 1
            _log.error("set aside: %s: %s", path, reason)
            await asyncio.to_thread(self._queue.set_aside, path, reason)
        done = [name for name, entry in entries.items() if not again & set(entry)]
        await asyncio.to_thread(self._queue.done, done)
        return not again

    async def _failures(self, paths: Collection[StorePath]) -> Mapping[StorePath, str] | None:
        """The paths that are not served after a push, with the reasons; None when nothing can be pushed now."""
        try:
            summary = await self._push(paths)
        except StorePathChanged as error:
            return await self._failures_by_halves(paths, str(error))
        except HarmoniaError as error:
            _log.warning("nothing can be pushed now: %s", error)
            return None
        if summary.aborted:
            _log.warning("nothing can be pushed now: %s", summary.aborted)
            return None
        asked = set(paths)
        return {outcome.path: outcome.reason for outcome in summary.failures if outcome.path in asked}

    async def _failures_by_halves(self, paths: Collection[StorePath], reason: str) -> Mapping[StorePath, str] | None:
        """As `_failures`, path by path, after one that has left the store has kept the others from being pushed."""
        if len(paths) == 1:
            return dict.fromkeys(paths, reason)
        found: dict[StorePath, str] = {}
        all_, middle = list(paths), len(paths) // 2
        for half in (all_[:middle], all_[middle:]):
            failures = await self._failures(half)
            if failures is None:
                return None
            found |= failures
        return found
