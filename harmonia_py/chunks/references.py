"""The hash parts of references in the bytes of a NAR: found, taken out, put back.

A rebuild differs from the build before in little but these 32 characters, in every file that names a dependency or its
own path. With zeros in their place the files are equal, and so are the chunks that they are cut into.

A reference that is not found stays in place: that costs room, and no correctness.
"""

from array import array
from collections.abc import Mapping
from typing import Final

from harmonia_py.nix.reference_scan import digit_rows
from harmonia_py.nix.store_path import HASH_PART_LENGTH

# A longer row of base-32 characters is no hash part, and to look at every place in it would take long.
_LONGEST_ROW: Final = 4096
# References of one NAR that are taken out, with ten bytes of memory each; further ones stay in place.
_MAX_FOUND: Final = 2**20

ZEROS: Final = bytes(HASH_PART_LENGTH)
"""The bytes in the place of a hash part that was taken out."""


def find_references(data: bytes, known: Mapping[bytes, int]) -> list[tuple[int, int]]:
    """The places of known hash parts in `data`, in order and without overlaps: (offset, number of the hash part).

    Args:
        data: bytes of an archive.
        known: the numbers of hash parts.
    """
    found: list[tuple[int, int]] = []
    if not known:
        return found
    behind = 0
    for row, end in digit_rows(data):
        if end - row > _LONGEST_ROW:
            continue
        start = max(row, behind)
        while start <= end - HASH_PART_LENGTH:
            number = known.get(data[start : start + HASH_PART_LENGTH])
            if number is None:
                start += 1
                continue
            found.append((start, number))
            start = behind = start + HASH_PART_LENGTH
    return found


class ReferenceRemover:
    """Takes the bytes of a NAR in portions of any size, and gives them with zeros in place of known hash parts.

    Args:
        known: the numbers of hash parts.

    Attributes:
        places: offsets in the NAR of the hash parts that were taken out, in order.
        numbers: the numbers of these hash parts.
    """

    def __init__(self, known: Mapping[bytes, int]) -> None:
        self.places = array("Q")
        self.numbers = array("H")
        self._known = known
        self._tail = b""
        self._offset = 0  # of the tail

    def update(self, data: bytes) -> bytes | bytearray:
        """The next bytes without hash parts; up to 31 are held back, because a hash part may begin there."""
        data = self._tail + data
        found = find_references(data, self._known) if len(self.places) < _MAX_FOUND else []
        settled = max(0, len(data) - HASH_PART_LENGTH + 1)
        out: bytes | bytearray = data
        if found:
            settled = max(settled, found[-1][0] + HASH_PART_LENGTH)
            out = bytearray(data)
            for offset, number in found:
                out[offset : offset + HASH_PART_LENGTH] = ZEROS
                self.places.append(self._offset + offset)
                self.numbers.append(number)
        self._tail = data[settled:]
        self._offset += settled
        return out[:settled]

    def finish(self) -> bytes:
        """The bytes that were held back."""
        data, self._tail = self._tail, b""
        return data
