"""The static side of a cache: the files by which other programs read it without this server.

`<cache>/nix-cache-info`, `<cache>/<hash part>.narinfo` and the listing `<cache>/<hash part>.ls` lie beside `nar/`, so
that the directory, or the bucket, is a plain binary cache. Rows are the truth, and these files follow them a moment
later: no client waits for a file that only other programs read. Private caches have them as well: a program that may
read the directory or the bucket may read all (docs/how-to/s3.md says so).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.objects import Document, StaticObjects, StoredObject
from harmonia_py.catalog.static_check import chunked_key
from harmonia_py.catalog.stored import PUSHED, narinfo_of
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.deletion import delete_all
from harmonia_py.errors import HarmoniaError, StorageError
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.static_listings import LISTING, StaticListings
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

_CACHE_INFO: Final = "nix-cache-info"
_NARINFO: Final = ".narinfo"
_SIGNED_BY: Final = "signed_by"
# Narinfos that are written together where garbage is deleted, of which a thousand keys come at a time: their listings
# are in memory meanwhile, up to 32 KiB each.
_TOGETHER: Final = 128


class StaticSide(Struct, eq=False):
    """The files of one cache.

    Attributes:
        cache: its number.
        name: of the cache.
        view: the cache as its readers see it.
        objects: that were pushed to it.
        blobs: takes the files.
        listings: writes the listings of its paths.
        errors: says errors of ours, of all static sides.
        discard: lists keys for the collector to delete, or to write anew where readers see their paths.
    """

    cache: CacheId
    name: CacheName
    view: BinaryCache
    objects: StaticObjects
    blobs: BlobStore
    listings: StaticListings
    errors: RareWarning
    discard: Callable[[Sequence[BlobKey]], Awaitable[object]]
    _has_cache_info: bool = False

    async def write(
        self, hash_parts: Collection[HashPart], *, is_renewal: bool = False
    ) -> Mapping[HashPart, BlobKey | HarmoniaError]:
        """Write the listings of published paths, then their narinfos, signed as readers get them.

        Two questions to the catalog and one to the disk serve all paths. With `is_renewal` only signatures may have
        changed: a listing that is there stays.

        Returns:
            The key of each narinfo, or why it could not be written. A path that readers do not see is left out.

        Raises:
            HarmoniaError: the catalog or the storage does not answer, for any of them.
        """
        objects = {stored.hash_part: stored for stored in await self.objects.objects(self.cache, hash_parts)}
        if objects and not self._has_cache_info:
            await self.write_cache_info()
            self._has_cache_info = True
        listings = await self._listings_of(objects, is_renewal=is_renewal)
        writings = (self._try_to_write(stored, listings.get(hash_part)) for hash_part, stored in objects.items())
        places = zip(objects, await asyncio.gather(*writings), strict=True)
        written = {hash_part: place for hash_part, place in places if place is not None}
        await self._discard_gone(written)
        return written

    async def _discard_gone(self, written: Collection[HashPart]) -> None:
        """Have the collector delete what was written while the row went: no lock holds both together.

        To the next start it would look as if the catalog was older than the files.
        """
        here = {stored.hash_part for stored in await self.objects.objects(self.cache, written)} if written else set()
        if gone := [self._key(hash_part, is_chunked=False) for hash_part in written if hash_part not in here]:
            await self.discard(gone)

    async def _listings_of(
        self, objects: Mapping[HashPart, StoredObject], *, is_renewal: bool
    ) -> Mapping[HashPart, Document]:
        """The listings to write; a path that is made of chunks has none."""
        wanted = [hash_part for hash_part, stored in objects.items() if not stored.file.is_chunked]
        if is_renewal:
            places = [_listing_beside(self._key(hash_part, is_chunked=False)) for hash_part in wanted]
            there = await asyncio.gather(*map(self.blobs.metadata, places))
            wanted = [hash_part for hash_part, metadata in zip(wanted, there, strict=True) if metadata is None]
        return await self.objects.listings(self.cache, wanted) if wanted else {}

    async def _try_to_write(self, stored: StoredObject, listing: Document | None) -> BlobKey | HarmoniaError | None:
        try:
            return await self._write(stored, listing)
        except HarmoniaError as error:
            return error
        except Exception as error:  # noqa: BLE001  # whatever it is: the other paths do not suffer from it
            path = stored.path_info.store_path
            self.errors.say_exception("an error of ours, while the static narinfo of %s is written", path)
            return StorageError(f"the static narinfo of {path} cannot be written: {error!r}")

    async def _write(self, stored: StoredObject, listing: Document | None) -> BlobKey | None:
        narinfo = await self.view.shown(narinfo_of(stored), PUSHED)
        if narinfo is None:
            return None
        if await self.blobs.metadata(BlobKey(stored.file.blob_key)) is None:
            return None
        is_chunked = stored.file.is_chunked
        key = self._key(stored.hash_part, is_chunked=is_chunked)
        if listing is not None:
            await self.listings.write(listing, _listing_beside(key))
        # All caches have their files and recipes together, beside the folders of the narinfos.
        url = f"{'../..' if is_chunked else '..'}/{stored.file.blob_key}"
        await self.blobs.put(key, replace(narinfo, url=url).format(self.view.cache_info.store_dir), self._signed)
        return key

    async def is_signed(self, stored: StoredObject) -> bool:
        """Whether the narinfo of a path is there, signed by the present keys.

        Raises:
            StorageError: that cannot be told.
        """
        key = self._key(stored.hash_part, is_chunked=stored.file.is_chunked)
        metadata = await self.blobs.metadata(key)
        return metadata is not None and dict(metadata) == self._signed

    @property
    def _signed(self) -> dict[str, str]:
        return {_SIGNED_BY: " ".join(sorted(map(str, self.view.public_keys)))}

    def _key(self, hash_part: HashPart, *, is_chunked: bool) -> BlobKey:
        return chunked_key(self.name, hash_part) if is_chunked else BlobKey(f"{self.name}/{hash_part}{_NARINFO}")

    async def write_cache_info(self) -> BlobKey:
        """Write the `nix-cache-info` of the cache; returns its key.

        Raises:
            StorageError: it cannot be written.
        """
        key = BlobKey(f"{self.name}/{_CACHE_INFO}")
        await self.blobs.put(key, self.view.cache_info.format(), {})
        return key


StaticSideOf = Callable[[CacheName], Awaitable[StaticSide | None]]
"""The static side of a cache; None when there is none of this name."""

Paths = Callable[[CacheId, Collection[HashPart]], Awaitable[Mapping[HashPart, StorePath]]]
"""As `ObjectIndex.paths`."""


class Deleter(Struct, frozen=True, eq=False):
    """Deletes garbage: files of static sides, then the bytes that these name.

    The key of a narinfo stands for its listing as well, which goes after it, and for the narinfo that lies elsewhere
    when the path is made of chunks. If readers see the path, its files are written instead of deleted, and only those
    that it has no more are deleted: another process may be between the listing and the narinfo, and be killed there.
    No lock holds rows and static sides together. So after each deletion it looks whether the row has come meanwhile;
    if the row comes after that look, its files are written after the deletion.

    Attributes:
        blobs: has the files.
        side_of: finds the static side of a cache.
        paths: tells which of some objects a cache has.
    """

    blobs: BlobStore
    side_of: StaticSideOf
    paths: Paths

    async def delete(self, keys: Sequence[str]) -> list[str]:
        """Delete files; returns the keys of those that could not be deleted, or, having a row, not be written."""
        static = [key for key in keys if _is_static(key)]
        # A narinfo that cannot be written is deleted: it may name bytes that are deleted below.
        written, _ = await self._write(static)
        failed = await self._delete_static(static, set(written.values()))
        _, unwritten = await self._write([key for key in static if key not in written])
        failed |= unwritten
        failed |= await delete_all(self.blobs, [key for key in keys if not _is_static(key)])
        return sorted(failed)

    async def _delete_static(self, keys: Sequence[str], stay: AbstractSet[str]) -> set[str]:
        """Delete the keys not in `stay`, then the files that they stand for; returns keys with a file left."""
        failed = await delete_all(self.blobs, [key for key in keys if key not in stay])
        beside: dict[str, str] = {}
        for key in keys:
            if key.endswith(_NARINFO) and key not in failed:
                if key not in stay:
                    beside[_listing_beside(key)] = key
                if (chunked := _chunked_beside(key)) not in stay:
                    beside[chunked] = key
        return failed | {beside[key] for key in await delete_all(self.blobs, list(beside))}

    async def _write(self, keys: Sequence[str]) -> tuple[dict[str, BlobKey], set[str]]:
        """Write the narinfos whose paths readers see; returns their keys, and those that could not be written."""
        by_cache: dict[str, list[str]] = {}
        for key in keys:
            cache, _, name = key.partition("/")
            by_cache.setdefault(cache, []).append(name)
        written, failed = dict[str, BlobKey](), set[str]()
        for cache, names in by_cache.items():
            side = await self.side_of(CacheName(cache))
            if side is None:
                continue
            hash_parts = [HashPart(name.removesuffix(_NARINFO)) for name in names if name != _CACHE_INFO]
            here = await self.paths(side.cache, hash_parts)
            places: dict[str, BlobKey | HarmoniaError]
            places = {f"{cache}/{part}{_NARINFO}": place for part, place in (await _write_all(side, here)).items()}
            if _CACHE_INFO in names:
                try:
                    places[f"{cache}/{_CACHE_INFO}"] = await side.write_cache_info()
                except HarmoniaError as error:
                    places[f"{cache}/{_CACHE_INFO}"] = error
            for key, place in places.items():
                if isinstance(place, HarmoniaError):
                    _log.warning("cannot write a file: %s", place)
                    failed.add(key)
                else:
                    written[key] = place
        return written, failed


async def _write_all(side: StaticSide, hash_parts: Collection[HashPart]) -> Mapping[HashPart, BlobKey | HarmoniaError]:
    places: dict[HashPart, BlobKey | HarmoniaError] = {}
    wanted = list(hash_parts)
    for start in range(0, len(wanted), _TOGETHER):
        some = wanted[start : start + _TOGETHER]
        try:
            places.update(await side.write(some))
        except HarmoniaError as error:
            places.update(dict.fromkeys(some, error))
    return places


def _listing_beside(narinfo: str) -> BlobKey:
    return BlobKey(narinfo.removesuffix(_NARINFO) + LISTING)


def _chunked_beside(narinfo: str) -> BlobKey:
    cache, _, name = narinfo.partition("/")
    return chunked_key(CacheName(cache), HashPart(name.removesuffix(_NARINFO)))


def _is_static(key: str) -> bool:
    _, _, name = key.partition("/")
    return name == _CACHE_INFO or name.endswith(_NARINFO)
