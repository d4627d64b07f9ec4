"""The files inside the store paths of the local store: which paths may be entered, and what was found there."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from harmonia_py.cache.source import Download
from harmonia_py.cache.tree import Directory, File
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.store.known_paths import KnownPaths
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.walk import FoundDirectory, FoundFile, Walk

_THREADS: Final = 8
# A disk that has not answered by then will not answer in time for any client.
_TIMEOUT_SECONDS: Final = 30.0


class StoreFiles:
    """`Files` of a local store.

    Args:
        metadata: what knows the valid paths.
        store_dir: the logical store directory.
        real_store: the directory with the files.
    """

    def __init__(self, *, metadata: StoreMetadata, store_dir: StoreDir, real_store: Path) -> None:
        self._store_dir = store_dir
        self._real_store = str(real_store)
        self._threads = ThreadPoolExecutor(_THREADS, "files")
        self._known = KnownPaths(metadata, self._real_store, self._threads)

    def close(self) -> None:
        """End the threads. Files that are being sent stay open until they are sent."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(self, hash_part: HashPart, components: Sequence[bytes]) -> File | Directory | None:
        """See `Files`."""
        first = await self._known.path_info(hash_part)
        if first is None:
            return None
        walk = Walk(self._store_dir, self._real_store, [first.store_path.encode(), *components])
        walk.allow(first.store_path)
        valid = {first.store_path.encode(): first}
        while isinstance(found := await self._run(walk), StorePath):
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

    async def _run(self, walk: Walk) -> StorePath | FoundFile | FoundDirectory | None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, walk.run)
        except TimeoutError:
            raise StorageError("the disk with the store does not answer in time") from None


def _download(found: FoundFile, info: PathInfo) -> Download:
    # A valid path has the contents that its NarHash says, so their place in it names them.
    inside = b"/".join(found.place[1:])
    return Download(
        size=found.file.size,
        etag=Hash.of(f"{info.nar_hash} ".encode() + inside).nix32,
        pieces=found.file.pieces,
        release=found.file.release,
    )
