"""Long listings that were lost, made again from the NARs that are kept, by the check that has made them at first."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.catalog.objects import DocumentKind, StoredObject
from harmonia_py.contents.nar_check import NarBounds
from harmonia_py.contents.pieces import portions
from harmonia_py.errors import FormatError, HarmoniaError
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.findings import Findings
from harmonia_py.push.listings import LongListings, listing_of
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.receiving import MAX_NAR_SIZE
from harmonia_py.push.steps import SteppingThreads
from harmonia_py.push.upload_check import CheckedUpload, UploadCheck
from harmonia_py.runtime.bounded import TimedSet

_log = logging.getLogger(__name__)

# Listings that wait for their turn; of more, those that are asked for later come in time.
_MAX_WAITING: Final = 64
# A NAR is not read again for each reader while its listing cannot be made.
_AGAIN_SECONDS: Final = 600.0
_MAX_KNOWN: Final = 4096
# Lost listings take turns under this name: no client waits for them in particular.
_LISTINGS: Final = "listings"


class ListingRenewal:
    """Makes lost listings again, one at a time: their NARs may be large, and so may they.

    Args:
        ports: where paths and their NARs are found, and listings go.
        listings: keeps those that are long.
        renew_static: has the files of a path written that other programs read.
    """

    def __init__(
        self,
        ports: PushPorts,
        listings: LongListings,
        renew_static: Callable[[CacheId, HashPart], Awaitable[None]],
    ) -> None:
        self._ports = ports
        self._listings = listings
        self._stepping = SteppingThreads(ports.threads, 1)
        self._renew_static = renew_static
        self._queue: asyncio.Queue[tuple[CacheId, HashPart]] = asyncio.Queue(_MAX_WAITING)
        self._wanted: TimedSet[tuple[CacheId, HashPart]] = TimedSet(_MAX_KNOWN)
        self._one_at_a_time = asyncio.Lock()

    def want(self, cache: CacheId, hash_part: HashPart) -> None:
        """Have the listing of a path made again soon, unless that was tried of late or too many wait already."""
        path = cache, hash_part
        if not self._queue.full() and not self._wanted.holds(path):
            self._wanted.add(path, _AGAIN_SECONDS)
            self._queue.put_nowait(path)

    async def run(self) -> None:
        """Make the listings that are wanted, until cancelled."""
        while True:
            path = await self._queue.get()
            try:
                # Another worker may have made it since it was asked for here.
                if not await self._is_there(*path):
                    await self.make(*path)
            except HarmoniaError as error:
                _log.warning("the listing of %s cannot be made for now: %s", path[1], error)

    async def make(self, cache: CacheId, hash_part: HashPart) -> bool:
        """Make the listing of a path again; False when that is impossible: the path or its NAR is not there, or wrong.

        Raises:
            StorageError: the NAR cannot be read, or the listing cannot be kept.
        """
        async with self._one_at_a_time:
            stored = await self._ports.objects.find(cache, hash_part)
            if stored is None:
                return False
            try:
                checked = await self._checked(stored)
                if checked is None:
                    return False
                await self._keep(cache, hash_part, checked)
            except (FormatError, BeingDeleted) as error:
                _log.warning("the listing of %s cannot be made of its NAR: %s", stored.path_info.store_path, error)
                return False
        _log.info("the listing of %s was lost, and was made again of its NAR", stored.path_info.store_path)
        return True

    async def _is_there(self, cache: CacheId, hash_part: HashPart) -> bool:
        """Whether readers have the listing of a path."""
        found = await self._ports.objects.document(cache, DocumentKind.LISTING, hash_part)
        if found is None or found.blob_key is None:
            return found is not None
        download = await self._ports.open_blob(found.blob_key)
        if download is None:
            return False
        with download:
            return True

    async def _keep(self, cache: CacheId, hash_part: HashPart, checked: CheckedUpload) -> None:
        nar_hash = checked.file.nar_hash
        assert nar_hash is not None
        if checked.long_listing is not None:
            await self._listings.keep(nar_hash, checked.long_listing)
        # The session lets a listing go whose path was collected meanwhile.
        listing = listing_of(hash_part, nar_hash, Findings.parse(checked.findings))
        await self._ports.uploads.attach(cache, f"listings of {cache}", listing, [hash_part], now=self._ports.now())
        await self._renew_static(cache, hash_part)

    async def _checked(self, stored: StoredObject) -> CheckedUpload | None:
        """The facts of the file of a path, all of which is read; None when it is not there.

        Raises:
            FormatError: it is not the file that it was.
        """
        file = stored.file
        download = await self._ports.open_blob(file.blob_key)
        if download is None:
            return None
        bounds = NarBounds(nar_size=MAX_NAR_SIZE)
        upload = UploadCheck(PushedFile(file.file_hash, file.compression), file.file_size, bounds)
        with download:
            steps = upload.take_all(portions(download.pieces(0, None)))
            return await self._stepping.run(_LISTINGS, steps, upload.give_up)
