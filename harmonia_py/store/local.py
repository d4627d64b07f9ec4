"""The local Nix store as a source: metadata from the daemon or the database, bytes from the files."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from harmonia_py.cache.lasting import Lasting
from harmonia_py.cache.source import Download
from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.listing import format_listing
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store import logs
from harmonia_py.store.dump import scan
from harmonia_py.store.known_paths import KnownPaths
from harmonia_py.store.layouts import Layouts
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.roots import TempRoots

# Scans and log look-ups wait for the disk; a few at once keep it busy.
THREADS: Final = 8

T = TypeVar("T")


def _nothing() -> None:
    return


class LocalStore:
    """A `Source`. The NAR of a path is offered as it is; compressing it is somebody else's business.

    Args:
        metadata: what knows the valid paths.
        roots: protects a path while it is sent; None where there is no daemon to ask.
        real_store: the directory with the files.
        log_directory: the directory above `drvs/`.
    """

    def __init__(
        self, *, metadata: StoreMetadata, roots: TempRoots | None, real_store: Path, log_directory: Path
    ) -> None:
        self._metadata = metadata
        self._roots = roots
        self._real_store = str(real_store)
        self._log_directory = log_directory
        self._layouts = Layouts()
        self._threads = ThreadPoolExecutor(THREADS, "store")
        self._downloads = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._known = KnownPaths(metadata, self._real_store, self._threads)

    async def idle(self) -> None:
        """Wait until no NAR is being sent."""
        await self._idle.wait()

    def close(self) -> None:
        """End the threads. The metadata and the roots belong to whoever made them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def narinfo(self, hash_part: HashPart) -> NarInfo | None:
        """The path info, and the uncompressed NAR as the place to get it."""
        info = await self._known.path_info(hash_part)
        if info is None or info.nar_size == 0:
            # A store may not know the size of an old path. Clients call a narinfo without one corrupt.
            return None
        return NarInfo(
            path_info=info,
            url=str(NarUrl(hash_part, info.nar_hash, "none")),
            compression="none",
            file_hash=info.nar_hash,
            file_size=info.nar_size,
        )

    def lasting(self, narinfo: NarInfo) -> Lasting | None:
        """How long what the store says in `narinfo`, which came from here, is right; None when nobody knows."""
        return self._known.lasting(narinfo.path_info)

    async def nar(self, url: NarUrl) -> Download | None:
        """The uncompressed NAR, protected from the garbage collector until the download is released."""
        if url.compression != "none":
            return None
        info = await self._known.path_info(url.hash_part)
        if info is None or url.nar_hash not in {None, info.nar_hash}:
            return None
        unprotect = await self._protect(info.store_path)
        if unprotect is None:
            return None
        self._downloads += 1
        self._idle.clear()

        def release() -> None:
            self._downloads -= 1
            if self._downloads == 0:
                self._idle.set()
            unprotect()

        try:
            return await self._nar(info, release)
        except StorePathChanged:
            release()
            if await self._is_valid(info):
                raise
            return None
        except BaseException:
            release()
            raise

    async def _nar(self, info: PathInfo, release: Callable[[], None]) -> Download:
        path = self._real_path(info.store_path)
        layout = await self._in_thread(lambda: self._layouts.get(path))
        if layout.size != info.nar_size:
            raise StorePathChanged(
                f"{info.store_path}: its files make a NAR of {layout.size} bytes, the store says {info.nar_size}"
            )
        return Download(
            size=layout.size,
            etag=info.nar_hash.nix32,
            pieces=lambda start, stop: self._layouts.dump(path, layout, start, stop),
            release=release,
        )

    async def listing(self, hash_part: HashPart) -> Download | None:
        """The listing, computed from names and sizes."""
        info = await self._known.path_info(hash_part)
        if info is None:
            return None
        path = self._real_path(info.store_path)
        try:
            data = await self._in_thread(lambda: format_listing(scan(path)))
        except StorePathChanged:
            if await self._is_valid(info):
                raise
            return None
        return Download.of_bytes(data, etag=f"{info.nar_hash.nix32}-ls")

    async def log(self, derivation: StorePath | HashPart) -> Download | None:
        """The build log, decompressed; whether the derivation is still valid does not matter."""
        return await self._in_thread(lambda: logs.find(self._log_directory, derivation))

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What the store knows of an output."""
        return await self._metadata.realisation(output)

    async def _is_valid(self, info: PathInfo) -> bool:
        """Whether the path is valid still: what is remembered of it may be a second old."""
        return await self._metadata.path_info(info.store_path.hash_part) is not None

    def _real_path(self, store_path: StorePath) -> str:
        return f"{self._real_store}/{store_path}"

    async def _protect(self, store_path: StorePath) -> Callable[[], None] | None:
        if self._roots is None:
            return _nothing
        return await self._roots.acquire(store_path)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
