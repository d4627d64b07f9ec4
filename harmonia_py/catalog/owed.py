"""Files that came while the catalog failed: they are served, and entered once it answers again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from harmonia_py.catalog.outages import Outages
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.storage import NotKept, Storage
from harmonia_py.runtime.bounded import Bounded

# Entries of some kilobytes each. The files of further ones are found at the next start.
_MAX_OWED: Final = 1024
# A storage that fails is left alone for as long.
_STORAGE_SECONDS: Final = 10.0

P = TypeVar("P")


class Owed(Generic[P]):
    """Enters files in the catalog, now or when it answers.

    Args:
        storage: has the files; what it has lost meanwhile is not entered.
        catalog: its ports, which may fail for a while.
        write: writes to the catalog; False when it takes nothing now.
    """

    def __init__(
        self,
        storage: Storage,
        catalog: Outages[P],
        write: Callable[[Callable[[P], Awaitable[object]]], Awaitable[bool]],
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._write = write
        self._entries: Bounded[BlobKey, Callable[[P], Awaitable[object]]] = Bounded(_MAX_OWED)
        self._is_due = asyncio.Event()

    def __len__(self) -> int:
        """How many files are still to be entered."""
        return len(self._entries)

    async def enter(self, key: BlobKey, entry: Callable[[P], Awaitable[object]]) -> None:
        """Enter a file in the catalog, now, or when that and the storage answer again."""
        try:
            entered = await self._write(entry)
        except NotKept:
            entered = False
        if not entered:
            self._owe(key, entry)

    async def run(self) -> None:
        """Enter what is owed as soon as the catalog answers. Runs until it is cancelled."""
        while True:
            await self._is_due.wait()
            await asyncio.sleep(self._catalog.rest_seconds())
            key, entry = self._entries.popitem(last=False)
            if not self._entries:
                self._is_due.clear()
            try:
                if await self._storage.metadata(key) is not None:
                    await self.enter(key, entry)
            except NotKept:
                self._owe(key, entry)
                await asyncio.sleep(_STORAGE_SECONDS)

    def _owe(self, key: BlobKey, entry: Callable[[P], Awaitable[object]]) -> None:
        self._entries[key] = entry
        self._is_due.set()
