"""An index over all paths of the local store, made again when they have changed."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

from msgspec import Struct, field

from harmonia_py.nix.store_path import StorePath
from harmonia_py.runtime.tasks import SingleFlight
from harmonia_py.runtime.threads import Threads
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.names import last_change

T = TypeVar("T")

# Every path that comes or goes changes the store directory's time, but perhaps a moment before the database knows, or
# in the same tick of the clock as another path: such a path is found after this time.
_MAX_SECONDS: Final = 300.0


class StoreIndex(Struct, Generic[T], eq=False):
    """An index that `make` makes of all valid paths.

    Attributes:
        metadata: is asked which paths are valid; the caller closes it.
        real_store: the directory with the files.
        threads: where the index is made. They belong to this object from now on.
        make: makes the index, or brings it up to date.
        rest: how long the index stays while paths come and go, as a multiple of the time that it took to make.
        min_rest: seconds that it stays as it is at least.
        made: the index; None as long as there is none.
    """

    metadata: StoreMetadata
    real_store: Path
    threads: Threads
    make: Callable[[Sequence[StorePath]], T]
    rest: float
    min_rest: float = 0.0
    made: T | None = None
    _state: int = 0  # the modification time of the store directory that the index is of
    _made_at: float = 0.0
    _rest_until: float = 0.0
    _updating: SingleFlight[None, None] = field(default_factory=SingleFlight)

    async def aclose(self) -> None:
        """Give up the update that is under way, and end the threads."""
        await self._updating.aclose()
        self.threads.give_up()

    def update(self) -> "asyncio.Task[None] | None":
        """The task that brings the index up to date, which all callers share; None while the index stays as it is."""
        resting = asyncio.get_running_loop().time() < self._rest_until
        return self._updating.get(None) if resting else self._updating.begin(None, self._update)

    async def _update(self) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        # Before the list of paths: a path that comes meanwhile is then found the next time.
        state = await self.threads.run(last_change, self.real_store)
        if self.made is not None and state == self._state and begun - self._made_at <= _MAX_SECONDS:
            self._rest_until = clock() + self.min_rest
            return
        paths = await self.metadata.all_paths()
        self.made = await self.threads.run(self.make, paths)
        self._state, self._made_at = state, begun
        self._rest_until = clock() + max(self.min_rest, self.rest * (clock() - begun))
