"""NARs cut into chunks in memory, and made again of them by the book."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from harmonia_py.chunks.cutting import Cutter
from harmonia_py.chunks.frames import compress_chunk, decompress_chunk, stored_frame
from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.chunks.recipe_writer import RecipeWriter
from harmonia_py.chunks.sizes import CutSizes
from harmonia_py.chunks.windows import next_span
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

SMALL = CutSizes(least=64, usual=256, most=1024, large_file=200, gap=48, literal=40)
"""So that short archives have everything that long ones have."""


@dataclass
class Chunked:
    """Chunks by their hash, as frames."""

    frames: dict[bytes, bytes] = field(default_factory=dict)

    def cut(
        self, portions: Iterable[bytes], references: Sequence[HashPart] = (), sizes: CutSizes = SMALL
    ) -> tuple[list[bytes], Recipe]:
        """The pieces of a NAR, and its recipe."""
        cutter, writer, digest = Cutter(references, sizes), RecipeWriter(), hashlib.sha256()
        pieces: list[bytes] = []
        for portion in portions:
            digest.update(portion)
            pieces += cutter.update(portion)
        pieces += cutter.finish()
        for piece in pieces:
            if len(piece) <= sizes.literal:
                writer.add_literal(piece)
            else:
                chunk = ChunkHash(hashlib.sha256(piece).digest())
                frame = self.frames.setdefault(chunk, compress_chunk(piece, 3))
                writer.add_chunk(chunk, len(piece), len(frame))
        nar_hash = Hash("sha256", digest.digest())
        recipe = writer.finish(nar_hash, references, array("Q", cutter.places), array("H", cutter.numbers))
        return pieces, recipe

    def nar(self, recipe: Recipe, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes of the NAR, of the segments that have them and no others."""
        return b"".join(
            self._plain(recipe, segment)[begin:end] for segment, begin, end in parts(recipe.nar_ends, start, stop)
        )

    def file(self, recipe: Recipe, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes of the file that is sent."""
        return b"".join(
            self._frame(recipe, segment)[begin:end] for segment, begin, end in parts(recipe.file_ends, start, stop)
        )

    def _plain(self, recipe: Recipe, segment: int) -> bytes:
        chunk = recipe.chunk(segment)
        if chunk is None:
            return recipe.restored(segment, recipe.literal(segment))
        return recipe.restored(segment, decompress_chunk(self.frames[chunk], recipe.sizes[segment]))

    def _frame(self, recipe: Recipe, segment: int) -> bytes:
        chunk = recipe.chunk(segment)
        if chunk is not None and recipe.is_sent_as_kept(segment):
            return self.frames[chunk]
        return stored_frame(self._plain(recipe, segment))


def parts(ends: Sequence[int], start: int, stop: int | None) -> Iterator[tuple[int, int, int | None]]:
    """Which bytes of which segments are those from `start` to `stop`, in short windows."""
    end = ends[-1] if ends else 0
    stop = end if stop is None else min(stop, end)
    while start < stop:
        span = next_span(ends, start, stop, 1000)
        for number in range(span.first, span.last + 1):
            yield number, span.start if number == span.first else 0, span.stop if number == span.last else None
        start += span.size
