"""The quarantine of pushed files that are lost: their objects are hidden; it is logged and counted."""

import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from msgspec import Struct, field

from harmonia_py.catalog.caches import time_by
from harmonia_py.catalog.nars import NarFile, Nars
from harmonia_py.contents.fsck import MISSING
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter
from harmonia_py.metrics.counters import Counters, counted
from harmonia_py.runtime.side_by_side import side_by_side

_log = logging.getLogger(__name__)

# A disk answers all questions in one call in a thread; a bucket is asked each by itself, so many at a time.
_LOOKED_AT_ONCE: Final = 200

IsHere = Callable[[str], Awaitable[bool]]
"""Whether the bytes under a key are there at this moment, whole, as far as a look can tell."""


class QuarantineCounters(Counters, frozen=True):
    """Findings since the start.

    Attributes:
        files: whose bytes are missing or wrong.
        paths: that readers do not see any more because of these.
    """

    files: Counter = counted(families.kept.QUARANTINED_FILES)
    paths: Counter = counted(families.kept.HIDDEN_PATHS)


class Quarantine(Struct, frozen=True, eq=False):
    """Hides the objects of a pushed file that is lost, and logs it.

    Attributes:
        nars: quarantines files.
        is_here: looks for the bytes of a file.
        counters: of files and paths.
        remedy: what ends a quarantine, in words for the log.
        clock: seconds since the epoch.
    """

    nars: Nars
    is_here: IsHere
    counters: QuarantineCounters = field(default_factory=QuarantineCounters)
    remedy: str = "until the file is pushed again"
    clock: Callable[[], float] = time.time

    async def finds(self, file: NarFile) -> bool:
        """Whether the bytes of a file are there, as far as a look can tell; otherwise it is quarantined.

        Raises:
            StorageError: that cannot be told, or noted.
        """
        # Last of all a look at the bytes: the file may have been collected and pushed again since it was opened.
        if await self.is_here(file.blob_key):
            return True
        await self.note(file, MISSING)
        return False

    async def absent(self, blob_keys: Collection[str]) -> set[str]:
        """Those of many keys under which there are no bytes, as far as a look can tell; nothing is quarantined.

        Raises:
            StorageError: that cannot be told.
        """
        found: set[str] = set()

        async def look(key: str) -> None:
            if not await self.is_here(key):
                found.add(key)

        await side_by_side(look, blob_keys, at_once=_LOOKED_AT_ONCE)
        return found

    async def note(self, file: NarFile, reason: str) -> None:
        """Quarantine a file, for a reason in words.

        Raises:
            StorageError: it cannot be noted.
        """
        hidden = await self.nars.quarantine(file.file_hash, reason, now=time_by(self.clock))
        if hidden is None:
            return
        self.counters.files.add()
        self.counters.paths.add(hidden)
        _log.error("%s: %s; paths hidden %s: %d", file.blob_key, reason, self.remedy, hidden)
