"""A queue of store paths emptied into a cache, by the commands that fill it and by the service beside a hook."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from harmonia_py.client.draining import Drained, Draining
from harmonia_py.client.outcomes import Summary
from harmonia_py.client.push_queue import PushQueue
from harmonia_py.client.watching import Watching
from harmonia_py.config.logins import find_cache
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.store_path import StorePath
from harmonia_py.runtime.side_by_side import first_of
from harmonia_py.wiring.local_paths import open_registrations, store_config
from harmonia_py.wiring.push_client import Silent, push


class QueueService:
    """Pushes the paths of a queue.

    Args:
        queue: that is emptied.
        cache: to push to, as the command line names it.
    """

    def __init__(self, queue: PushQueue, cache: str) -> None:
        self._queue = queue
        self._cache = find_cache(cache, os.environ)
        self._config = store_config(os.environ)
        self.ending = asyncio.Event()
        self._draining = Draining(queue, self._push, self._config.store_dir)
        self._drained: asyncio.Task[Drained] | None = None

    def end_at_signals(self) -> None:
        """Have SIGTERM and SIGINT end the work, once the rest of the queue is pushed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ending.set)

    def give_up(self) -> None:
        """Have `run_watching` end without pushing the rest of the queue."""
        if self._drained is not None:
            self._drained.cancel()

    async def run(self, deadline: float) -> Drained:
        """Push paths as they come until `ending` is set, then the rest, for at most `deadline` seconds."""
        return await self._draining.run(self.ending, deadline)

    async def run_watching(
        self, deadline: float, *, seen: Path | None, until: Callable[[], Awaitable[None]] | None = None
    ) -> Drained:
        """Push what comes into the store until `until` has ended, or a signal has come.

        Args:
            deadline: as for `run`.
            seen: up to where the store was watched before; None to begin now.
            until: runs meanwhile; it begins when the store is being watched.

        Raises:
            HarmoniaError: the store cannot be watched, the queue not be written, or what `until` raised.
        """
        try:
            async with open_registrations(self._config) as registrations:
                watching = Watching(registrations, self._queue, self._config.store_dir, seen)
                await watching.begin()
                seen_all = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    self._drained = drained = tasks.create_task(self._draining.run(seen_all, deadline))
                    watched = tasks.create_task(watching.run(self.ending))
                    watched.add_done_callback(lambda _: seen_all.set())
                    if until is not None:
                        await until()
                        self.ending.set()
        except* HarmoniaError as group:
            raise first_of(group) from None
        return Drained(is_empty=False, aside=0) if drained.cancelled() else drained.result()

    async def _push(self, paths: Collection[StorePath]) -> Summary:
        return await push(self._cache, paths, Silent(), jobs=8, level=3, pins={}, environment=os.environ)
