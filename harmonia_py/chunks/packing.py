"""Files of NARs become chunks: cut, new chunks packed, the file made again and verified, then replaced by its recipe.

A pack is put whole, then its chunks are entered in the catalog. Each file whose chunks are all stored is made once from
its recipe, as a client would get it, and hashed; only if its NAR is right does the recipe replace the pushed file. A
process that is killed leaves packs that nothing uses, which the collector of packs takes, or bytes that no row names;
it never loses a file.
"""

import hashlib
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.cache.source import Download
from harmonia_py.catalog.nars import RECIPES, BeingDeleted, NarFile
from harmonia_py.catalog.stored import OpenBlob
from harmonia_py.chunks.catalog import PACK_BYTES, DueFile
from harmonia_py.chunks.cutting import Cutter
from harmonia_py.chunks.frames import compress_chunk
from harmonia_py.chunks.growing_pack import ChunkStorage, GrowingPack
from harmonia_py.chunks.recipe import MAX_REFERENCES, ChunkHash, Recipe
from harmonia_py.chunks.recipe_writer import RecipeWriter
from harmonia_py.chunks.sizes import SIZES
from harmonia_py.chunks.windows import ChunksUnknown
from harmonia_py.chunks.work import Packed
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.codecs import MAX_WINDOW_BYTES, Unpacker
from harmonia_py.contents.nar_check import NarBounds, NarCheck
from harmonia_py.contents.pieces import feed_all, portions, whole_portions
from harmonia_py.errors import FormatError, HarmoniaError, StorageError, StorePathChanged
from harmonia_py.runtime.threads import in_thread

_log = logging.getLogger(__name__)

LEVEL: Final = 3
"""Of zstd: others were measured (`benchmarks/results/deduplication.md`)."""

# Pieces whose hashes are looked up together: some 16 MiB.
_BATCH: Final = 128


class _UnreadableFile(HarmoniaError):
    """The file to be cut cannot be read. Only this file is left out."""


class _Cut(Struct, frozen=True):
    """A file with its recipe, all of whose chunks are in packs or in the pack that is being written."""

    file: NarFile
    recipe: Recipe


class Packer:
    """Makes chunks of files, one file at a time. Use it under the collector's lock; call `close` at the end.

    Args:
        storage: of the chunks.
        open_file: opens the files that are to be cut.
    """

    def __init__(self, storage: ChunkStorage, open_file: OpenBlob) -> None:
        self._storage = storage
        self._threads = storage.threads
        self._open_file = open_file
        self._pack: GrowingPack | None = None
        self._cut: list[_Cut] = []
        self._done = Packed()

    async def pack(self, due: DueFile) -> None:
        """Cut a file, and put each pack that becomes full; `flush` replaces the file.

        A file that cannot be read or holds no NAR stays as it is, which is logged. So do, without a word, one whose
        path has too many references for a recipe, and one that is not there any more.

        Raises:
            StorageError: nothing can be written, or the catalog cannot tell.
        """
        if len(due.hash_parts) > MAX_REFERENCES:
            return
        try:
            download = await self._opened(due.file)
            if download is None:
                return
            with download:
                self._cut.append(_Cut(due.file, await self._recipe_of(due, download)))
        except (FormatError, _UnreadableFile) as error:
            _log.warning("%s stays as it is: %s", due.file.blob_key, error)
            self._done += Packed(left=1)

    async def flush(self) -> Packed:
        """Put the pack that is being written, and replace those of the cut files whose recipe is verified.

        Returns what was done since the last call.

        Raises:
            StorageError: nothing can be written, or the catalog cannot tell.
        """
        await self._put_pack()
        cut, self._cut = self._cut, []
        for one in cut:
            await self._replace(one)
        done, self._done = self._done, Packed()
        return done

    async def close(self) -> None:
        """Give up the pack that is being written, and the files that `flush` has not replaced."""
        pack, self._pack = self._pack, None
        self._cut = []
        if pack is not None:
            await pack.close()

    async def _opened(self, file: NarFile) -> Download | None:
        try:
            return await self._open_file(file.blob_key)
        except StorageError as error:
            raise _UnreadableFile(str(error)) from error

    async def _recipe_of(self, due: DueFile, download: Download) -> Recipe:
        cutter, writer = Cutter(due.hash_parts), RecipeWriter()
        pieces = self._pieces(cutter, download, due.file)
        while batch := await in_thread(self._threads, partial(_batch, pieces, SIZES.literal)):
            hashes = {chunk for _, chunk in batch if chunk is not None}
            known = dict(await self._storage.chunks.known(hashes))
            if self._pack is None and len(known) < len(hashes):
                self._pack = await GrowingPack.begin(self._storage)
            await in_thread(self._threads, partial(_keep, batch, known, self._pack, writer))
            if self._pack is not None and self._pack.size >= PACK_BYTES:
                await self._put_pack()
        assert due.file.nar_hash is not None
        finish = partial(writer.finish, due.file.nar_hash, due.hash_parts, cutter.places, cutter.numbers)
        return await in_thread(self._threads, finish)

    def _pieces(self, cutter: Cutter, download: Download, file: NarFile) -> Generator[bytes, None, None]:
        unpacker = Unpacker(file.compression, MAX_WINDOW_BYTES, MAX_WINDOW_BYTES, longest=file.nar_size)
        for data in _readable(whole_portions(download.pieces(0, None))):
            for portion in unpacker.feed(data):
                yield from cutter.update(bytes(portion))
                if file.nar_size is not None and cutter.nar_size > file.nar_size:
                    raise FormatError("its NAR is longer than its NarSize")
        yield from cutter.finish()

    async def _put_pack(self) -> None:
        pack, self._pack = self._pack, None
        if pack is not None:
            try:
                await pack.put()
                self._done += Packed(new_bytes=pack.size)
            finally:
                await pack.close()

    async def _replace(self, cut: _Cut) -> None:
        """Make the file of a recipe as a client would get it; if its NAR is right, the recipe replaces the file."""
        try:
            made = await self._verified(cut)
        except ChunksUnknown as error:
            _log.warning("%s stays as it is for now: %s", cut.file.blob_key, error)
            return
        except (FormatError, StorageError, StorePathChanged) as error:
            _log.error("%s stays as it is: it is not made again from its chunks: %s", cut.file.blob_key, error)
            self._done += Packed(left=1)
            with suppress(StorageError):  # the next round looks again
                await self._storage.files.lose_wrong(cut.recipe)
            return
        data = await in_thread(self._threads, cut.recipe.format)
        await self._storage.blobs.put(BlobKey(made.blob_key), data, {}, durable=True)
        chunks = await in_thread(self._threads, cut.recipe.chunks)
        try:
            is_replaced = await self._storage.chunks.replace(cut.file.file_hash, made, chunks, now=self._storage.now())
        except BeingDeleted as error:
            # An earlier recipe of this NAR is on its way out; the others of this pass do not wait for that.
            _log.info("%s stays as it is for now: %s", cut.file.blob_key, error)
            return
        if is_replaced:
            self._done += Packed(files=1, nar_bytes=cut.recipe.nar_size, file_bytes=cut.file.file_size)

    async def _verified(self, cut: _Cut) -> NarFile:
        with self._storage.files.file_of(cut.recipe, "") as download:
            check = NarCheck(None, "zstd", bounds=NarBounds(nar_size=cut.file.nar_size))
            await feed_all(self._threads, portions(download.pieces(0, None)), check.feed)
            await in_thread(self._threads, check.finish)
        checked = check.checked
        if (checked.nar_hash, checked.nar_size) != (cut.file.nar_hash, cut.file.nar_size):
            raise FormatError("its NAR is another one")
        return NarFile(
            file_hash=checked.file_hash,
            file_size=checked.file_size,
            compression="zstd",
            blob_key=f"{RECIPES}{checked.file_hash.nix32}",
            nar_hash=checked.nar_hash,
            nar_size=checked.nar_size,
        )


def _readable(data: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    try:
        yield from data
    except (StorageError, StorePathChanged) as error:
        raise _UnreadableFile(str(error)) from error


def _batch(pieces: Iterator[bytes], literal: int) -> list[tuple[bytes, ChunkHash | None]]:
    """The next pieces, each with its hash; None for a short piece, which the recipe holds itself."""
    batch: list[tuple[bytes, ChunkHash | None]] = []
    for piece in pieces:
        batch.append((piece, None if len(piece) <= literal else ChunkHash(hashlib.sha256(piece).digest())))
        if len(batch) == _BATCH:
            break
    return batch


def _keep(
    batch: Sequence[tuple[bytes, ChunkHash | None]],
    known: dict[ChunkHash, int],
    pack: GrowingPack | None,
    writer: RecipeWriter,
) -> None:
    """Write the pieces into the recipe, and new chunks into the pack."""
    for piece, chunk in batch:
        if chunk is None:
            writer.add_literal(piece)
            continue
        size = known.get(chunk)
        if size is None:
            assert pack is not None
            if chunk not in pack.chunks:
                pack.add(chunk, compress_chunk(piece, LEVEL))
            size = pack.chunks[chunk].size
        writer.add_chunk(chunk, len(piece), size)
