"""How NARs are cut: what the job that makes chunks, and a client that sends missing ones, have to agree on."""

from typing import Final

from msgspec import Struct

MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
"""The bound of a chunk, whatever sizes caches have: the header of a frame may claim anything."""
# The library cuts no shorter ones.
_LEAST: Final = 64
CUT: Final = "fastcdc-2020/2 without references"
"""The name of the way in which `cutting` cuts, whatever the sizes: another way gets another name."""


class CutSizes(Struct, frozen=True, kw_only=True):
    """The sizes of pieces, as measured (`benchmarks/results/deduplication.md`). Caches with other sizes share little.

    Attributes:
        least: bytes of a chunk at least, unless its file or the NAR ends.
        usual: bytes of a chunk in the mean.
        most: bytes of a chunk at most.
        large_file: bytes from which a file is cut on its own.
        gap: bytes without a reference that are worth a chunk of their own.
        literal: bytes up to which a piece is no chunk, and stands in the recipe.
    """

    least: int = 32 * 1024
    usual: int = 128 * 1024
    most: int = 512 * 1024
    large_file: int = 64 * 1024
    gap: int = 4 * 1024
    literal: int = 512

    @property
    def are_sound(self) -> bool:
        """Whether NARs can be cut like that."""
        in_order = 0 < self.literal < self.least < self.usual < self.most <= MAX_CHUNK_BYTES
        return in_order and self.least >= _LEAST and min(self.large_file, self.gap) > 0


SIZES: Final = CutSizes()
