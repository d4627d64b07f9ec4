"""A recipe written segment by segment, as a NAR is cut."""

from array import array
from collections.abc import Sequence
from typing import Final

from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart


class RecipeWriter:
    """Takes the segments of a NAR in order. Literals that follow each other become one."""

    # Bytes of a literal: its frame, as large, is in the memory of every reader.
    _MAX_LITERAL: Final = 64 * 1024

    def __init__(self) -> None:
        self._sizes = array("I")
        self._frame_sizes = array("I")
        self._hashes = bytearray()
        self._literals = bytearray()

    def add_chunk(self, chunk: ChunkHash, size: int, frame_size: int) -> None:
        """Add a chunk as the next segment."""
        self._sizes.append(size)
        self._frame_sizes.append(frame_size)
        self._hashes += chunk

    def add_literal(self, data: bytes) -> None:
        """Add bytes as a literal, or to the literal before."""
        self._literals += data
        if self._sizes and not self._frame_sizes[-1] and self._sizes[-1] + len(data) <= self._MAX_LITERAL:
            self._sizes[-1] += len(data)
        else:
            self._sizes.append(len(data))
            self._frame_sizes.append(0)

    def finish(
        self, nar_hash: Hash, references: Sequence[HashPart], places: "array[int]", numbers: "array[int]"
    ) -> Recipe:
        """The recipe, given the offsets in the NAR (`places`) and the numbers of the hash parts that were taken out."""
        return Recipe(
            nar_hash,
            references,
            sizes=self._sizes,
            frame_sizes=self._frame_sizes,
            hashes=bytes(self._hashes),
            literals=bytes(self._literals),
            places=places,
            numbers=numbers,
        )
