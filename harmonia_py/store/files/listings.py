"""The listings that were made last, in bounded memory: making one takes ten milliseconds for every thousand files."""

from typing import Final

from harmonia_py.nix.listing import format_listing
from harmonia_py.runtime.bounded import BoundedBytes
from harmonia_py.store.files.dump import scan
from harmonia_py.store.files.layouts import Identity
from harmonia_py.store.files.scans import Scans

# A listing takes some seventy bytes for each file, so these are of a quarter of a million files.
MAX_BYTES: Final = 16 * 1024 * 1024


class Listings:
    """Makes listings with `scans`, and keeps `max_bytes` of them; the one used least recently goes first."""

    def __init__(self, scans: Scans, max_bytes: int = MAX_BYTES) -> None:
        self._scans = scans
        self._kept: BoundedBytes[str, tuple[Identity, bytes]] = BoundedBytes(max_bytes, lambda kept: len(kept[1]))

    def kept(self, path: str, identity: Identity) -> bytes | None:
        """The listing of the tree at `path`, which `identity` is of now, where it is kept."""
        kept = self._kept.get(path)
        return kept[1] if kept is not None and kept[0] == identity else None

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
        self._kept.put(path, (identity, listing))
        return listing
