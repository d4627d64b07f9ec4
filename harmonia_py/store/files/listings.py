"""The listings that were made last, in bounded memory: making one takes ten milliseconds for every thousand files."""

from collections import OrderedDict
from typing import Final

from harmonia_py.nix.listing import format_listing
from harmonia_py.store.files.dump import scan
from harmonia_py.store.files.layouts import Identity
from harmonia_py.store.files.scans import Scans

# A listing takes some seventy bytes for each file, so these are of a quarter of a million files.
MAX_BYTES: Final = 16 * 1024 * 1024


class Listings:
    """Makes listings with `scans`, and keeps `max_bytes` of them; the one used least recently goes first."""

    def __init__(self, scans: Scans, max_bytes: int = MAX_BYTES) -> None:
        self._scans = scans
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[Identity, bytes]] = OrderedDict()

    def kept(self, path: str, identity: Identity) -> bytes | None:
        """The listing of the tree at `path`, which `identity` is of now, where it is kept."""
        kept = self._kept.get(path)
        if kept is None or kept[0] != identity:
            return None
        self._kept.move_to_end(path)
        return kept[1]

    async def get(self, path: str, identity: Identity) -> bytes:
        """The listing of the tree at `path`, made unless it is kept.

        Raises:
            StorePathChanged: something vanished meanwhile, or is of a kind that no store path has.
            StorageError: something cannot be read.
            FormatError: it exceeds the limits of an archive.
        """
        kept = self.kept(path, identity)
        if kept is not None:
            return kept
        listing = await self._scans.run(f"listing {path} {identity}", lambda: format_listing(scan(path)))
        self._keep(path, identity, listing)
        return listing

    def _keep(self, path: str, identity: Identity, listing: bytes) -> None:
        before = self._kept.pop(path, None)
        if before is not None:
            self._bytes -= len(before[1])
        self._kept[path] = identity, listing
        self._bytes += len(listing)
        while self._bytes > self._max_bytes:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
