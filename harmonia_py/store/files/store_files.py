"""The files inside the store paths of the local store: the check that a path may be entered, and the walk in it."""

from collections.abc import Sequence
from pathlib import Path

from harmonia_py.cache.source import Download
from harmonia_py.cache.tree import Directory, File
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.daemon.known_paths import KnownPaths
from harmonia_py.store.damaged import DamagedPaths
from harmonia_py.store.files.walk import FoundDirectory, FoundFile, Walk
from harmonia_py.store.metadata import StoreMetadata


class StoreFiles:
    """`Files` of a local store.

    Args:
        metadata: is asked which paths are valid.
        store_dir: the logical store directory.
        real_store: the directory with the files.
        damaged: as `KnownPaths` has it.
    """

    def __init__(
        self, *, metadata: StoreMetadata, store_dir: StoreDir, real_store: Path, damaged: DamagedPaths | None = None
    ) -> None:
        self._store_dir = store_dir
        self._real_store = str(real_store)
        self._threads = Threads(Pool.FILES)
        self._looks = Threads(Pool.KNOWN)
        self._known = KnownPaths(metadata, self._real_store, self._looks, damaged=damaged)

    def close(self) -> None:
        """End the threads. Files that are being sent stay open until they are sent."""
        self._threads.give_up()
        self._looks.give_up()

    async def find(self, hash_part: HashPart, components: Sequence[bytes]) -> File | Directory | None:
        """The file or directory at `components` inside the store path with this hash part; None when there is none.

        Raises:
            DaemonError: the store cannot tell whether a path is valid.
            StorageError: something cannot be read, or the disk does not answer.
        """
        first = await self._known.path_info(hash_part)
        if first is None:
            return None
        walk = Walk(self._store_dir, self._real_store, [first.store_path.encode(), *components])
        walk.allow(first.store_path)
        valid = {first.store_path.encode(): first}
        while isinstance(found := await self._threads.in_time(walk.run), StorePath):
            info = await self._known.path_info(found.hash_part)
            if info is None or info.store_path != found:
                return None
            walk.allow(found)
            valid[found.encode()] = info
        if found is None:
            return None
        if isinstance(found, FoundDirectory):
            return Directory(first.store_path, found.entries, found.total)
        return File(first.store_path, _download(found, valid[found.place[0]]))


def _download(found: FoundFile, info: PathInfo) -> Download:
    # A valid path has the contents that its NarHash says, so their place in it names them.
    inside = b"/".join(found.place[1:])
    return Download(
        size=found.file.size,
        etag=Hash.of(f"{info.nar_hash} ".encode() + inside).nix32,
        pieces=found.file.pieces,
        release=found.file.release,
    )
