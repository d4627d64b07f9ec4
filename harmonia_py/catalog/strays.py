"""Files in the storage that no row of the catalog names: found, and handed to the collector.

That a file is about to be written is noted first, and not made durable: a client waits for the disk once. So a power
cut may lose the note and keep the file. When the client comes again with another compression, or never, nothing would
ever name the file or delete it. All such files are older than the start: one look is enough, unless it finds that the
catalog does not fit the files.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.nars import PACKS, RECIPES
from harmonia_py.catalog.paging import batches_of
from harmonia_py.catalog.repairs import Repairs
from harmonia_py.catalog.static_check import chunked_key, key_in_catalog, path_of_narinfo
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.nix.store_path import HashPart

# Keys that are looked up together: the catalog answers in some milliseconds.
_TOGETHER: Final = 500
# A push that was cut leaves some; their keys are in memory.
_MOST: Final = 100_000
# Files of NARs and long listings, and what NARs in chunks are made of. What lies beside them for other programs is
# written anew at every change.
_PREFIXES: Final = ("nar/", PACKS, RECIPES)


class Strays(Struct, frozen=True):
    """The strays that were found.

    Attributes:
        files: number of files that no row names.
        unknown: the narinfo of a path that the catalog does not have: the catalog does not fit, and the files stay.
    """

    files: int
    unknown: BlobKey | None = None


async def discard_strays(blobs: BlobStore, repairs: Repairs, *, now: Timestamp) -> Strays:
    """Have the collector delete files that no row names, unless the catalog does not fit the files.

    A file that is being pushed at this moment has a row before it is there. A pack or a recipe gets its row a moment
    later, from the process that deletes, which then takes it off the list. The narinfo of a path is written after the
    path's row, and listed for deletion with it: a narinfo without a row shows that the catalog is new, or older than
    the files.

    Raises:
        StorageError: the catalog or the storage cannot tell.
    """
    strays: list[str] = []
    async for batch in _batches(blobs):
        files = [key for key in batch if key.startswith(_PREFIXES)]
        if files and len(strays) < _MOST:  # the others have their turn after the next start
            strays += await repairs.unnamed(files)
        if (unknown := await _unknown(batch, blobs, repairs)) is not None:
            return Strays(len(strays), unknown)
    for start in range(0, len(strays), _TOGETHER):
        await repairs.discard(strays[start : start + _TOGETHER], garbage_from=now)
    return Strays(len(strays))


async def unknown_path(blobs: BlobStore, repairs: Repairs) -> BlobKey | None:
    """A narinfo of a path that the catalog does not have and does not have deleted either; None when there is none.

    A path that is in chunks, and whole as the catalog has it, is one of those.

    Raises:
        StorageError: the catalog or the storage cannot tell.
    """
    async for batch in _batches(blobs):
        if (unknown := await _unknown(batch, blobs, repairs)) is not None:
            return unknown
    return None


async def knows_some(blobs: BlobStore, repairs: Repairs) -> bool:
    """Whether the catalog has the path of one of the narinfos, or there are no files at all.

    Raises:
        StorageError: the catalog or the storage cannot tell.
    """
    has_files = False
    async for batch in _batches(blobs):
        has_files = True
        for cache, paths in _by_cache(batch).items():
            if await repairs.known_paths(cache, paths):
                return True
    return not has_files


async def _unknown(keys: Sequence[BlobKey], blobs: BlobStore, repairs: Repairs) -> BlobKey | None:
    """The first of these that is a narinfo as `unknown_path` looks for it."""
    unknown = {key for key in keys if path_of_narinfo(key) is not None}
    for cache, paths in _by_cache(keys).items():
        known = await repairs.known_paths(cache, paths)
        unknown -= {key for path, is_chunked in known.items() for key in _narinfos_of(cache, path, is_chunked)}
    if not unknown:
        return None
    # What is to be deleted, or written anew, is on its way; it may have gone since it was listed.
    unnamed = await repairs.unnamed([key_in_catalog(key) for key in unknown])
    for key in sorted(unknown):
        if key_in_catalog(key) in unnamed and await blobs.metadata(key) is not None:
            return key
    return None


def _by_cache(keys: Sequence[BlobKey]) -> Mapping[CacheName, Collection[HashPart]]:
    """The paths of those of these that are narinfos."""
    paths: dict[CacheName, set[HashPart]] = {}
    for key in keys:
        if (path := path_of_narinfo(key)) is not None:
            paths.setdefault(path[0], set()).add(path[1])
    return paths


def _narinfos_of(cache: CacheName, path: HashPart, is_chunked: bool) -> Iterator[BlobKey]:  # noqa: FBT001
    """The narinfos that a path may have: the static one goes a moment after its NAR has become chunks."""
    yield BlobKey(f"{cache}/{path}.narinfo")
    if is_chunked:
        yield chunked_key(cache, path)


async def _batches(blobs: BlobStore) -> AsyncIterator[list[BlobKey]]:
    async for batch in batches_of(blobs.list(), _TOGETHER):
        yield [info.key for info in batch]
