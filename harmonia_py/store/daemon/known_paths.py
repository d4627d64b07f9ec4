"""Path infos that the daemon need not be asked for again, because nothing has left the store since.

Deleting a store path removes an entry from the store directory, which changes the directory's modification time. So
one `stat` a second tells whether everything known is still there; what a daemon would answer in a hundred microseconds
is then a look into a dictionary.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final

from msgspec import Struct

from harmonia_py.cache.validity import ChangeDetector, Epoch, Validity
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.runtime.threads import Threads
from harmonia_py.runtime.together import Together
from harmonia_py.store.damaged import DamagedPaths
from harmonia_py.store.look_ahead import Ahead, LookAhead
from harmonia_py.store.metadata import Looked, LooksUp, StoreMetadata
from harmonia_py.store.names import StoreNames, last_change

# Paths that are looked at ahead in one call. Between two of these the look whether the store has changed has its turn,
# for which every narinfo waits.
_LOOKS_AHEAD: Final = 32
# A path that was collected is known for so long after, at most, in seconds.
CHECK_SECONDS: Final = 1.0
# Signatures are added to a path without a trace in the store directory; they are seen after this time.
KNOWN_SECONDS: Final = 60.0
# About one KiB each.
MAX_KNOWN: Final = 10_000


class KnownPath(Struct, frozen=True):
    """The facts about a valid path, and how long they are right."""

    info: PathInfo
    validity: Validity


class KnownPaths:
    """Asks `metadata` for path infos, and remembers them.

    Args:
        metadata: is asked for path infos that are not known.
        real_store: the directory with the files.
        threads: where the `stat` may wait for the disk.
        clock: seconds that only grow.
        damaged: is told of valid paths of which nothing is there, and tells when another process found a damage.
        names: tells without a question that a path is not there; None when every path is asked for.
        ahead: tells of what paths refer to before it is asked for; None when nothing does.
    """

    def __init__(
        self,
        metadata: StoreMetadata,
        real_store: str,
        threads: Threads,
        *,
        clock: Callable[[], float] = monotonic,
        damaged: DamagedPaths | None = None,
        names: StoreNames | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self._metadata = metadata
        self._looks_up = metadata if isinstance(metadata, LooksUp) else None
        self._real_store = real_store
        self._threads = threads
        self._clock = clock
        self._known: Bounded[HashPart, KnownPath] = Bounded(MAX_KNOWN)
        self._damaged = damaged or DamagedPaths()
        self._names = names
        self._looks = Together.in_thread(_are_there, threads.run)
        self._ahead = None if ahead is None else LookAhead(ahead, self._those_there, clock)
        self._changes = ChangeDetector(self._modified, seconds=CHECK_SECONDS, clock=clock)

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none. Raises what `find` raises."""
        found = await self.find(hash_part)
        return None if found is None else found.info

    async def find(self, hash_part: HashPart) -> KnownPath | None:
        """The facts about the valid path with this hash part, and how long they are right; None when there is none.

        A path of which nothing is in the store directory is not found, also when the metadata say that it is valid.

        Raises:
            DaemonError: the store cannot tell.
            StorageError: the store directory is not there.
        """
        # A path that is deleted while the question is under way counts as deleted after it.
        epoch = await self._changes.epoch()
        known = self._known.get(hash_part)
        if known is not None and self._holds(known, epoch):
            return known
        if self._names is not None:
            self._names.follow(epoch)
            if self._names.lacks(hash_part.encode()):
                return None
        info = await self._ask(hash_part)
        self._known.pop(hash_part, None)
        if info is None:
            return None
        self._remember([info], epoch)
        self._look_ahead(info, epoch)
        return self._known[hash_part]

    def close(self) -> None:
        """Read nothing ahead any more."""
        if self._ahead is not None:
            self._ahead.close()

    def _holds(self, known: KnownPath, epoch: Epoch) -> bool:
        # The epoch is compared, not the time of its end: when the disk took longer to answer, its answer still counts.
        return epoch in known.validity.epochs and known.validity.expires > self._clock()

    def _remember(self, infos: Sequence[PathInfo], epoch: Epoch) -> None:
        """Note what was said of valid paths that are there, by a question which was put in `epoch`."""
        validity = Validity(self._clock() + KNOWN_SECONDS, (epoch,))
        for info in infos:
            self._known[info.store_path.hash_part] = KnownPath(info, validity)

    def _look_ahead(self, info: PathInfo, epoch: Epoch) -> None:
        """Read what the path refers to, unless all of it is known."""
        if self._ahead is None or not self._ahead.is_due:
            return
        known = (self._known.get(reference.hash_part) for reference in info.references)
        if not all(one is not None and self._holds(one, epoch) for one in known):
            self._ahead.begin(info, partial(self._remember, epoch=epoch))

    async def _those_there(self, infos: Sequence[PathInfo]) -> Sequence[PathInfo]:
        found: list[PathInfo] = []
        for start in range(0, len(infos), _LOOKS_AHEAD):
            some = infos[start : start + _LOOKS_AHEAD]
            paths = [f"{self._real_store}/{info.store_path}" for info in some]
            there = await self._threads.run(_are_there, paths)
            found += [info for info, is_there in zip(some, there, strict=True) if is_there]
        return found

    async def _ask(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about a valid path of which something is in the store directory."""
        if self._looks_up is not None:
            found = await self._looks_up.look_up(hash_part, self._lies_there)
        else:
            info = await self._metadata.path_info(hash_part)
            found = None if info is None else Looked(info, None)
        if found is None:
            return None
        info, is_there = found
        if is_there is None:
            is_there = await self._looks.ask(f"{self._real_store}/{info.store_path}")
        if not is_there:
            await self._note_missing(info)
        return info if is_there else None

    def _lies_there(self, store_path: StorePath) -> bool:
        return os.path.lexists(f"{self._real_store}/{store_path}")

    async def _note_missing(self, info: PathInfo) -> None:
        # The path may have been deleted since the question: that is no damage.
        again = await self._metadata.path_info(info.store_path.hash_part)
        if again is not None:
            self._damaged.note(info.store_path, info.nar_hash, "nothing of it is in the store directory", None)

    async def _modified(self) -> int:
        """When the store directory was last changed, or a damage found in it."""
        return max(await self._threads.run(last_change, self._real_store), self._damaged.changed_ns)


def _are_there(paths: list[str]) -> list[bool]:
    return [os.path.lexists(path) for path in paths]
