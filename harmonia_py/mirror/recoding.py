"""Kept files of other compressions made into zstd in the background: xz limits a client to some 100 Mbit/s per core."""

import asyncio
import logging
from contextlib import suppress

from harmonia_py.contents.encoders import encoder
from harmonia_py.contents.incoming import Lane
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.kept_files import key_of
from harmonia_py.contents.nar_check import NarCheck
from harmonia_py.contents.read_pieces import ReadPieces
from harmonia_py.contents.storage import NotKept
from harmonia_py.errors import FormatError, HarmoniaError, StorageError
from harmonia_py.mirror.indexed_narinfo import IndexedNarInfo
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.runtime.turns import Turns

_log = logging.getLogger(__name__)


class Recoding:
    """Re-codes one file after the other, in a thread of its own.

    Args:
        intake: where files come in and are kept.
        index: is told which file is offered from then on.
    """

    def __init__(self, intake: Intake, index: NarinfoIndex) -> None:
        self._intake = intake
        self._index = index
        self._turn = asyncio.Lock()
        self._threads = Threads(Pool.RECODE)
        self._lane = Lane(self._threads, Turns(1), gives_up=False)

    async def recode(self, entry: IndexedNarInfo) -> None:
        """Make a zstd file of the kept one, verify it on the way, and remove the old file."""
        async with self._turn:
            if entry.compression == "zstd" or entry.facts is None:
                return
            source = entry.url
            target = NarUrl(source.hash_part, entry.narinfo.path_info.nar_hash, "zstd")
            # Built from the entry as it is now: requests may change the entry meanwhile.
            incoming = _KeptNar(entry, self._intake, self._lane)
            with suppress(HarmoniaError, NotKept):  # which is in the log
                if await self._intake.keep(key_of(target), incoming.wanted):
                    await self._index.enter(entry, target)
                    await self._intake.storage.delete(key_of(source))

    async def aclose(self) -> None:
        """Give up what is re-coded, and end the thread."""
        await self._intake.abandon(self._lane)
        await self._threads.aclose()


class _KeptNar:
    """An `Incoming`: a kept file, and the zstd file that is made of it."""

    size = None

    def __init__(self, entry: IndexedNarInfo, intake: Intake, lane: Lane) -> None:
        assert entry.facts is not None
        self.lane = lane
        self.room = entry.narinfo.path_info.nar_size
        self._path_info = entry.narinfo.path_info
        self._facts = entry.facts
        self._compression = entry.compression
        self._url = entry.url
        self._intake = intake

    async def wanted(self) -> "_KeptNar":
        """This file itself, as the intake asks for it."""
        return self

    async def open(self) -> ReadPieces | None:
        """The kept file; None when it has gone."""
        blob = await self._intake.storage.open(key_of(self._url))
        return None if blob is None else ReadPieces(blob, self.lane.threads)

    def check(self) -> NarCheck:
        """The check of the file by the facts with which it was kept."""
        facts = self._facts
        return NarCheck(self._path_info, self._compression, facts.file_hash, facts.file_size, encoder=encoder("zstd"))

    def fault(self, error: FormatError) -> HarmoniaError:
        """An error of the disk: the file has rotted, and `verify` finds and removes it."""
        return StorageError(f"the kept file is not what it was: {error}")

    async def failed(self, error: HarmoniaError) -> None:
        """Do nothing: the kept file stays as it is."""
        _log.warning("%s: not re-coded: %s", self._path_info.store_path, error)

    async def kept(self) -> None:
        """Do nothing: `recode` tells the index."""
