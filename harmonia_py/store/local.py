"""The local Nix store as a source: metadata from the daemon or the database, bytes from the files."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from harmonia_py.cache.found import LOCAL, Found
from harmonia_py.cache.in_use import InUse
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, NotAtOnce, Piece, nothing
from harmonia_py.errors import FormatError, HarmoniaError, StorageError, StorePathChanged
from harmonia_py.nix.layout import Layout
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.daemon.known_paths import KnownPath, KnownPaths
from harmonia_py.store.daemon.temp_roots import TempRoots
from harmonia_py.store.damaged import DamagedPaths
from harmonia_py.store.files import logs
from harmonia_py.store.files.layouts import Identity, Layouts, identity_of
from harmonia_py.store.files.listings import Listings
from harmonia_py.store.files.scans import Scans
from harmonia_py.store.look_ahead import Ahead
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.names import StoreNames

T = TypeVar("T")

# Of a directory of a million names the first ones are enough to find a path.
_NAMES_TRIED: Final = 100


class LocalStore:
    """A `Source`. The NAR of a path is offered as it is; `contents/compressed` compresses it.

    Args:
        metadata: is asked which paths are valid.
        roots: protects a path while it is sent; None where there is no daemon to ask.
        real_store: the directory with the files.
        log_directory: the directory above `drvs/`.
        damaged: notes the paths whose files are not what the store says.
        follows_names: whether a path is absent without a question when the store directory has no such name. Where a
            policy hides paths, the time would tell these from what is absent.
        ahead: tells of what paths refer to before it is asked for; None when nothing does.
    """

    def __init__(
        self,
        *,
        metadata: StoreMetadata,
        roots: TempRoots | None,
        real_store: Path,
        log_directory: Path,
        damaged: DamagedPaths | None = None,
        follows_names: bool = True,
        ahead: Ahead | None = None,
    ) -> None:
        self._metadata = metadata
        self._roots = roots
        self._real_store = str(real_store)
        self._log_directory = log_directory
        self._layouts = Layouts()
        self._scans = Scans()
        self._listings = Listings(self._scans)
        self._threads = Threads(Pool.STORE)
        self._in_use = InUse()
        self._looks = Threads(Pool.KNOWN)
        self._damaged = damaged or DamagedPaths()
        self._names = StoreNames(self._real_store, self._threads) if follows_names else None
        self._known = KnownPaths(
            metadata, self._real_store, self._looks, damaged=self._damaged, names=self._names, ahead=ahead
        )

    async def look_first(self) -> None:
        """Find some path, so that the first client does not wait until the daemon is connected and names are known."""
        try:
            some = await self._threads.run(_some_path, self._real_store)
            if some is not None:
                await self._known.find(some.hash_part)
        except (HarmoniaError, OSError):
            pass  # the question for the path itself says what is wrong

    async def idle(self) -> None:
        """Wait until no NAR is being sent."""
        await self._in_use.idle()

    def close(self) -> None:
        """End the threads. The metadata and the roots stay open: they belong to the caller."""
        if self._names is not None:
            self._names.close()
        self._known.close()
        self._threads.give_up()
        self._looks.give_up()
        self._scans.close()

    @property
    def lacks(self) -> Callable[[bytes], bool] | None:
        """Tells whether it is known without waiting that there is no path with a hash part; None: it never is."""
        return None if self._names is None else self._names.lacks

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """The path info, and the uncompressed NAR as the place to get it."""
        known = await self._find(hash_part)
        if known is None or known.info.nar_size == 0:
            # A store may not know the size of an old path. Clients call a narinfo without one corrupt.
            return None
        info = known.info
        narinfo = NarInfo(
            path_info=info,
            url=str(NarUrl(hash_part, info.nar_hash, "none")),
            compression="none",
            file_hash=info.nar_hash,
            file_size=info.nar_size,
        )
        return Found(narinfo, LOCAL, known.validity)

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """The uncompressed NAR, protected from the garbage collector until the download is released."""
        if url.compression != "none":
            return None
        if asker.at_once:
            raise NotAtOnce
        known = await self._find(url.hash_part)
        if known is None or url.nar_hash not in {None, known.info.nar_hash}:
            return None
        info = known.info
        unprotect = nothing if self._roots is None else await self._roots.acquire(info.store_path)
        if unprotect is None:
            return None
        with ExitStack() as held:
            held.callback(unprotect)
            held.callback(self._in_use.begin())
            return await self._while_valid(info, self._nar(info, held))

    async def _nar(self, info: PathInfo, held: ExitStack) -> Download:
        path = self._real_path(info.store_path)
        layout = await self._scans.run(f"layout {path}", lambda: self._layouts.get(path))
        if layout.size != info.nar_size:
            raise StorePathChanged(
                f"{info.store_path}: its files make a NAR of {layout.size} bytes, the store says {info.nar_size}"
            )
        return Download(
            size=layout.size,
            etag=info.nar_hash.nix32,
            pieces=partial(self._pieces, info, layout, asyncio.get_running_loop()),
            release=held.pop_all().close,
        )

    def _pieces(
        self, info: PathInfo, layout: Layout, loop: asyncio.AbstractEventLoop, start: int, stop: int | None
    ) -> Iterator[Piece]:
        try:
            yield from self._layouts.dump(self._real_path(info.store_path), layout, start, stop)
        except StorePathChanged as error:
            asyncio.run_coroutine_threadsafe(self.note_damage(info, str(error)), loop)
            raise

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """The listing of a valid path, or the build log of a derivation, which need not be valid any more."""
        if kind is DocumentKind.LOG:
            return await self._threads.run(lambda: logs.find(self._log_directory, name))
        return await self._listing(name.hash_part if isinstance(name, StorePath) else name)

    async def _listing(self, hash_part: HashPart) -> Download | None:
        """The listing of a valid path: one that was made a moment ago, or one to be made when its bytes are needed."""
        known = await self._find(hash_part)
        if known is None:
            return None
        info = known.info
        path = self._real_path(info.store_path)
        etag = f"{info.nar_hash.nix32}-ls"

        identity = await self._while_valid(info, self._threads.run(lambda: identity_of(path)))
        if identity is None:
            return None
        listing = self._listings.kept(path, identity)
        if listing is not None:
            return Download.of_bytes(listing, etag)

        async def make() -> Download | None:
            made = await self._while_valid(info, self._listings.get(path, identity))
            return None if made is None else Download.of_bytes(made, etag)

        return Download.to_be_made(etag, make)

    async def _while_valid(self, info: PathInfo, looking: Awaitable[T]) -> T | None:
        """The result of `looking` at the files of a path; None when they changed because the path is valid no more."""
        try:
            return await looking
        except StorePathChanged as error:
            if await self.note_damage(info, str(error)):
                raise
            return None

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of an output."""
        return await self._metadata.realisation(output)

    async def note_damage(self, info: PathInfo, words: str) -> bool:
        """Stop serving a path whose files are not what the store says; False when it has merely become invalid."""
        # `_known` may believe for a second that a deleted path is valid, so the store itself is asked.
        if await self._metadata.path_info(info.store_path.hash_part) is None:
            return False
        identity = await self._threads.run(lambda: _identity_of(self._real_path(info.store_path)))
        self._damaged.note(info.store_path, info.nar_hash, words, identity)
        return True

    async def is_damaged(self, hash_part: HashPart) -> bool:
        """Whether the path with this hash part is valid, and its files are known to be damaged."""
        info = await self._metadata.path_info(hash_part)
        return info is not None and self._damaged.find(info.store_path, info.nar_hash) is not None

    async def _find(self, hash_part: HashPart) -> KnownPath | None:
        """The valid path with this hash part, unless its files are known to be damaged."""
        known = await self._known.find(hash_part)
        if known is None:
            return None
        store_path, nar_hash = known.info.store_path, known.info.nar_hash
        damage = self._damaged.find(store_path, nar_hash)
        if damage is None:
            return known
        if await self._threads.run(lambda: _identity_of(self._real_path(store_path))) == damage.identity:
            return None
        self._damaged.forget(store_path)
        return known

    def _real_path(self, store_path: StorePath) -> str:
        return f"{self._real_store}/{store_path}"


def _identity_of(path: str) -> Identity | None:
    """The identity of the file at `path`; None when nothing can be found there."""
    try:
        return identity_of(path)
    except (StorePathChanged, StorageError):
        return None


def _some_path(real_store: str) -> StorePath | None:
    """A name in the store directory that is a path's: others are those of links, locks and unfinished builds."""
    with os.scandir(real_store) as entries:
        for entry in islice(entries, _NAMES_TRIED):
            with suppress(FormatError):
                return StorePath.parse(entry.name)
    return None
