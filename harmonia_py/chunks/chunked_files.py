"""Files that are made of chunks when they are asked for: a recipe opened as a `Download`."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Final

from harmonia_py.cache.source import Download
from harmonia_py.chunks.catalog import Chunks, PackedChunk, Place
from harmonia_py.chunks.pack_frames import wrong_chunks
from harmonia_py.chunks.reading import Unreadable, bytes_of
from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.chunks.sending import Sending
from harmonia_py.chunks.sent_chunks import SentChunks
from harmonia_py.chunks.windows import ChunksUnknown, LostChunk, OpenPack, WindowSizes
from harmonia_py.contents.blobs import Blob, BlobKey, BlobStore
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.runtime.threads import Threads, in_thread

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

OPEN_FILES: Final = WindowSizes(first=_MIB, most=32 * _MIB, least=32 * _MIB, ahead=0, budget=None)
"""Sizes for packs on a disk, which are open files: a window holds only the places of its chunks.

The next window is looked up when one has been sent, while the client takes what is left in the socket: a thread that
looks up beside the thread that sends holds it up for longer, as both need the interpreter.
"""

IN_MEMORY: Final = WindowSizes(first=512 * _KIB, most=4 * _MIB, least=256 * _KIB, ahead=3, budget=64 * _MIB)
"""Sizes for packs in a bucket, whose bytes a window holds: four windows hide the ten milliseconds of an answer."""

# Recipes that were read lately. The columns take some 60 bytes for each segment; a NAR of 1 GiB has some 10,000.
_MAX_RECIPES: Final = 32

# Chunks whose places are looked up together where whole recipes are checked: those of one pack, some milliseconds.
_LOOKED_UP: Final = 1024
# How long such a check goes on: the collector of paths waits meanwhile.
_LOOKING_SECONDS: Final = 15.0

NoteLostChunk = Callable[[ChunkHash, str, bool], Awaitable[object]]
"""Notes that a chunk is lost, for a reason in words; True: with all chunks of its pack."""


class ChunkedFiles:
    """Opens files that are made of chunks.

    Args:
        chunks: knows the places of chunks.
        blobs: has recipes.
        open_pack: opens packs.
        sizes: of windows.
        threads: read recipes.
        note_lost: is told of chunks that cannot be had.
    """

    def __init__(
        self,
        chunks: Chunks,
        *,
        blobs: BlobStore,
        open_pack: OpenPack,
        sizes: WindowSizes,
        threads: Threads,
        note_lost: NoteLostChunk,
    ) -> None:
        self._chunks = chunks
        self._blobs = blobs
        self._open_pack = open_pack
        self._threads = threads
        self._note_lost = note_lost
        self._recipes: Bounded[str, Recipe] = Bounded(_MAX_RECIPES)
        self._sending = partial(Sending, sizes=sizes, downloads=set())
        # The first chunk of a recipe at which `lose_wrong` has not looked yet, by its NAR.
        self._looked_to: Bounded[Hash, int] = Bounded(_MAX_RECIPES)

    async def open(self, key: str, etag: str) -> Download | None:
        """The file whose recipe is under a key, as zstd; None when there is none.

        Raises:
            StorageError: the recipe cannot be read.
        """
        recipe = await self.recipe(key)
        return None if recipe is None else self.file_of(recipe, etag)

    async def open_nar(self, key: str) -> Download | None:
        """The bare NAR whose recipe is under a key; None when there is none. Raises as `open`."""
        recipe = await self.recipe(key)
        if recipe is None:
            return None
        sending = self._kept(recipe)
        return Download(
            size=recipe.nar_size, etag=recipe.nar_hash.nix32, pieces=sending.nar_pieces, release=sending.release
        )

    def file_of(self, recipe: Recipe, etag: str) -> Download:
        """The file that a recipe makes, as zstd."""
        sending = self._kept(recipe)
        return Download(size=recipe.file_size, etag=etag, pieces=sending.file_pieces, release=sending.release)

    def made_with(self, recipe: Recipe, sent: SentChunks) -> Download:
        """The file that a recipe of a client makes, of chunks that are kept and of those that the client has sent.

        No chunk is noted as lost by it: not the chunk may be wrong but the recipe.
        """
        find, open_pack = sent.found_beside(self._chunks.places), sent.opened_beside(self._open_pack)
        sending = self._sending(recipe, find=find, open_pack=open_pack, note_lost=_leave)
        return Download(size=recipe.file_size, etag="", pieces=sending.file_pieces, release=sending.release)

    async def recipe(self, key: str) -> Recipe | None:
        """The recipe under a key.

        Raises:
            StorageError: it cannot be read; `ChunksUnknown`: the storage does not answer for now.
        """
        try:
            blob = await self._blobs.open(BlobKey(key))
        except StorageError as error:
            raise ChunksUnknown(str(error)) from error
        if blob is None:
            self._recipes.pop(key, None)
            return None
        with blob:
            known = self._recipes.get(key)
            if known is None:
                known = self._recipes[key] = await in_thread(self._threads, partial(self._parse, blob))
            return known

    async def lose_wrong(self, recipe: Recipe) -> None:
        """Note those chunks of a recipe as lost whose bytes are missing or wrong: they are stored anew when they come.

        A reader does not find all of them, because most frames are sent as they are kept. Those that the disk cannot
        read are not lost by that, which hides each path that needs them: the error may pass. Use it under the
        collector's lock: it goes on for a limited time, and the next call for the same NAR goes on where it has ended.

        Raises:
            StorageError: that cannot be told for now.
        """
        chunks = await in_thread(self._threads, lambda: list(recipe.chunks()))
        end = time.monotonic() + _LOOKING_SECONDS
        for start in range(self._looked_to.get(recipe.nar_hash, 0), len(chunks), _LOOKED_UP):
            places = await self._chunks.scan_places(chunks[start : start + _LOOKED_UP])
            for pack, packed in (await in_thread(self._threads, partial(_by_pack, places))).items():
                await self._lose_wrong_in(BlobKey(pack), packed)
            following = start + _LOOKED_UP
            if following < len(chunks):
                self._looked_to[recipe.nar_hash] = following
                if time.monotonic() >= end:
                    return
        self._looked_to.pop(recipe.nar_hash, None)

    async def _lose_wrong_in(self, pack: BlobKey, chunks: Sequence[PackedChunk]) -> None:
        blob = await self._blobs.open(pack)
        if blob is None:
            await self._note_lost(chunks[0].chunk, "its pack is missing", True)
            return
        with blob:
            wrong = await in_thread(self._threads, partial(wrong_chunks, blob, chunks))
        for one in wrong:
            await self._note_lost(one.chunk, "its bytes are missing or wrong", False)

    def _parse(self, blob: Blob) -> Recipe:
        try:
            return Recipe.parse(bytes_of(blob, 0, blob.size))
        except FormatError as error:
            raise StorageError(f"a recipe does not parse: {error}") from error
        except Unreadable:
            raise
        except StorageError as error:
            raise ChunksUnknown(str(error)) from error

    def _kept(self, recipe: Recipe) -> Sending:
        return self._sending(recipe, find=self._chunks.places, open_pack=self._open_pack, note_lost=self._note)

    async def _note(self, lost: LostChunk) -> None:
        with suppress(StorageError):
            await self._note_lost(lost.chunk, lost.reason, lost.with_pack)


async def _leave(_lost: LostChunk) -> None:
    pass


def _by_pack(places: Mapping[ChunkHash, Place]) -> dict[str, list[PackedChunk]]:
    """The chunks of each pack, in the order of their places."""
    packs: dict[str, list[PackedChunk]] = {}
    for chunk, (pack, offset, size) in sorted(places.items(), key=itemgetter(1)):
        packs.setdefault(pack, []).append(PackedChunk(chunk, offset, size))
    return packs
