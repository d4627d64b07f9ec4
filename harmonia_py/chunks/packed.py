"""`Packed`: the figures of files that were made into chunks."""

from msgspec import Struct


class Packed(Struct, frozen=True):
    """The figures.

    Attributes:
        files: files that became chunks.
        nar_bytes: bytes of the NARs of these.
        new_bytes: bytes that were added to packs.
        file_bytes: bytes of the files before.
        left: files that stay as they are, because they cannot be read, cut, or made again.
    """

    files: int = 0
    nar_bytes: int = 0
    new_bytes: int = 0
    file_bytes: int = 0
    left: int = 0

    def __add__(self, other: "Packed") -> "Packed":
        return Packed(
            files=self.files + other.files,
            nar_bytes=self.nar_bytes + other.nar_bytes,
            new_bytes=self.new_bytes + other.new_bytes,
            file_bytes=self.file_bytes + other.file_bytes,
            left=self.left + other.left,
        )
