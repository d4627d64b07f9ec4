"""A NAR cut as the cache cuts NARs: its recipe first, and in a second reading the chunks that the cache lacks.

The NAR is read twice, the second time up to the last chunk that is missing: it need never be in memory.
"""

import hashlib
from collections.abc import Collection, Iterator
from typing import Final

from harmonia_py.chunks.cutting import Cutter
from harmonia_py.chunks.frames import compress_chunk
from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.chunks.recipe_writer import RecipeWriter
from harmonia_py.chunks.sizes import CutSizes
from harmonia_py.client.compress import check_nar
from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo

# Stands in a recipe for the length of a frame that is not known: 0 is that of a literal.
_UNKNOWN: Final = 1


def cut(nar: Iterator[bytes | memoryview], info: PathInfo, sizes: CutSizes) -> Recipe:
    """The recipe of a NAR, without the lengths of frames. It computes: a thread calls it.

    Raises:
        StorePathChanged: it is another NAR than the store says.
        StorageError: its files cannot be read.
    """
    hash_parts = dict.fromkeys([info.store_path.hash_part, *(path.hash_part for path in info.references)])
    cutter, writer, digest = Cutter(hash_parts, sizes), RecipeWriter(), hashlib.sha256()

    def add(pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            if len(piece) <= sizes.literal:
                writer.add_literal(piece)
            else:
                writer.add_chunk(ChunkHash(hashlib.sha256(piece).digest()), len(piece), _UNKNOWN)

    for portion in nar:
        digest.update(portion)
        add(cutter.update(bytes(portion)))
    add(cutter.finish())
    check_nar(info, cutter.nar_size, Hash("sha256", digest.digest()))
    return writer.finish(info.nar_hash, list(hash_parts), cutter.places, cutter.numbers)


class TooMuchMissing(Exception):
    """More bytes of chunks are missing than are sent with a recipe."""


class SentRecipe:
    """The body in which a recipe is sent: frames of missing chunks, in the order of their first places, and then it.

    Args:
        recipe: as `cut` gives it.
        missing: the chunks that are sent.
        level: of zstd.
        most, most_recipe: bytes of the frames, and of the recipe.

    Attributes:
        size: bytes of the recipe, once all is drawn.
    """

    def __init__(
        self, recipe: Recipe, missing: Collection[ChunkHash], level: int, *, most: int, most_recipe: int
    ) -> None:
        self._most = most
        self._most_recipe = most_recipe
        self.size = 0
        self._recipe = recipe
        self._missing = missing
        self._level = level

    def pieces(self, nar: Iterator[bytes | memoryview]) -> Iterator[tuple[int, bytes]]:
        """The body piece by piece, each with the number of bytes of the NAR behind it. It computes: a thread draws it.

        Raises:
            TooMuchMissing: they are more bytes than may be sent.
            StorePathChanged: the NAR has become another one.
            StorageError: its files cannot be read.
        """
        frame_sizes, sent = dict(self._recipe.chunks()), 0
        reader, left = _Reader(nar), set(self._missing)
        for segment, chunk in enumerate(self._recipe.chunks_in(0, self._recipe.segments - 1)):
            if not left:
                break
            size = self._recipe.sizes[segment]
            if chunk is None or chunk not in left:
                reader.skip(size)
                continue
            left.remove(chunk)
            data = self._recipe.taken_out(segment, reader.read(size))
            if hashlib.sha256(data).digest() != chunk:
                raise StorePathChanged("its files have changed while they were read")
            frame = compress_chunk(data, self._level)
            frame_sizes[chunk] = len(frame)
            sent += len(frame)
            if sent > self._most:
                raise TooMuchMissing
            yield reader.count(), frame
        recipe = self._recipe.with_frames(frame_sizes).format()
        self.size = len(recipe)
        if self.size > self._most_recipe:
            raise TooMuchMissing
        yield 0, recipe


class _Reader:
    """Reads portions as a stream."""

    def __init__(self, portions: Iterator[bytes | memoryview]) -> None:
        self._portions = portions
        self._portion = memoryview(b"")
        self._passed = 0

    def skip(self, size: int) -> None:
        for _ in self._take(size):
            pass

    def read(self, size: int) -> bytes:
        return b"".join(bytes(data) for data in self._take(size))

    def count(self) -> int:
        """Bytes that were passed since the last call."""
        passed, self._passed = self._passed, 0
        return passed

    def _take(self, size: int) -> Iterator[memoryview]:
        self._passed += size
        while size:
            if not self._portion:
                portion = next(self._portions, None)
                if portion is None:
                    raise StorePathChanged("its files have become shorter while they were read")
                self._portion = memoryview(portion)
            data, self._portion = self._portion[:size], self._portion[size:]
            size -= len(data)
            yield data
