"""Packs and recipes entered anew in a catalog that was lost: chunks by the frames of packs, files by their recipes.

A pack is entered before the recipes that use it, and the collector of packs looks at it a week later. Until then a
rebuild that was cut off can be begun again, and chunks whose recipes it has not come to are not taken for unused.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.chunks.catalog import PACK_BYTES, PackedChunk
from harmonia_py.chunks.frames import decompress_frame, frame_size
from harmonia_py.chunks.growing_pack import ChunkStorage
from harmonia_py.chunks.reading import Unreadable, bytes_of
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.chunks.sizes import MAX_CHUNK_BYTES
from harmonia_py.chunks.windows import ChunksUnknown
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.contents.nar_check import NarCheck
from harmonia_py.contents.pieces import feed_all, portions
from harmonia_py.contents.whole_blob import NOT_WHOLE
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.runtime.threads import in_thread

_TOGETHER: Final = 256
_LOOK_SECONDS: Final = 7 * 86_400
# A pack is longer than `PACK_BYTES` by a part of its last chunk; twice as long is surely none.
_MOST_BYTES: Final = 2 * PACK_BYTES + MAX_CHUNK_BYTES


class PacksNamed(Struct, frozen=True):
    """The figures of `name_packs`.

    Attributes:
        packs: packs that were entered.
        faults: reasons for which packs were not taken, or not whole, by their keys.
    """

    packs: int
    faults: dict[str, str]


class RebuiltChunks:
    """Enters packs, and reads files that are made of chunks.

    Args:
        storage: of the chunks.
        report: called with the number of bytes of each pack that was read.
    """

    def __init__(self, storage: ChunkStorage, report: Callable[[int], object]) -> None:
        self._storage = storage
        self._threads = storage.threads
        self._report = report

    async def name_packs(self, keys: Sequence[str]) -> PacksNamed:
        """Enter the packs that have no row, without chunks whose bytes are wrong.

        Raises:
            StorageError: the catalog cannot be asked or written, or a pack cannot be had for now.
        """
        named, faults = 0, dict[str, str]()
        for start in range(0, len(keys), _TOGETHER):
            for key in sorted(await self._storage.packs.unknown(keys[start : start + _TOGETHER])):
                try:
                    await self._name(BlobKey(key))
                except (FormatError, Unreadable) as error:
                    faults[key] = str(error)
                else:
                    named += 1
        return PacksNamed(named, faults)

    async def _name(self, key: BlobKey) -> None:
        blob = await self._storage.blobs.open(key)
        if blob is None:
            raise FormatError(NOT_WHOLE)
        with blob:
            if blob.size > _MOST_BYTES:
                raise FormatError("it is too long for a pack")
            chunks = await in_thread(self._threads, partial(_chunks_of, blob))
        self._report(blob.size)
        if not chunks:
            raise FormatError("it has no chunk that is right")
        await self._storage.packs.add(key, blob.size, chunks, now=Timestamp(self._storage.now() + _LOOK_SECONDS))

    async def read_file(self, key: BlobKey, check: NarCheck) -> dict[ChunkHash, int] | None:
        """Give `check` the file that a recipe makes; returns its chunks, or None when there is no recipe.

        Raises:
            FormatError: the file cannot be made, or is not what `check` wants.
            StorageError: the catalog or the storage does not answer for now.
        """
        try:
            recipe = await self._storage.files.recipe(key)
            if recipe is None:
                return None
            with self._storage.files.file_of(recipe, "") as download:
                await feed_all(self._threads, portions(download.pieces(0, None)), check.feed)
                await in_thread(self._threads, check.finish)
        except ChunksUnknown:
            raise
        except StorageError as error:
            raise FormatError(str(error)) from error
        return await in_thread(self._threads, recipe.chunks)

    async def received(
        self, cache: CacheId, session: str, file: NarFile, chunks: dict[ChunkHash, int], findings: str
    ) -> None:
        """Give a cache a file that `read_file` has found to be right.

        Raises:
            FormatError: a chunk of it was lost meanwhile.
        """
        now = self._storage.now()
        if not await self._storage.chunks.received(cache, session, file, chunks, findings=findings, now=now):
            raise FormatError("a chunk of it is not there any more")


def _chunks_of(blob: Blob) -> list[PackedChunk]:
    data = memoryview(bytes_of(blob, 0, blob.size))
    chunks, offset = [], 0
    while offset < len(data):
        try:
            size = frame_size(data[offset:])
        except FormatError:
            break  # the place of the next frame is not known
        chunk = _chunk_in(data[offset : offset + size])
        if chunk is not None:
            chunks.append(PackedChunk(chunk, offset, size))
        offset += size
    return chunks


def _chunk_in(frame: memoryview) -> ChunkHash | None:
    try:
        return ChunkHash(hashlib.sha256(decompress_frame(frame)).digest())
    except FormatError:
        return None  # files that need the chunk are found to lack it
