"""Hash parts in bytes that pass: what an archive refers to, when nothing says which store paths to look for.

Nix looks for the hash parts of a build's inputs, at any place, whatever stands beside them (`src/libutil/references.cc`
of Nix). Here every 32 characters of base 32 in a row are candidates. Few archives have many that are none: other text
has an `e`, `o`, `t` or `u` in between.
"""

from collections.abc import Iterator
from typing import Final

from harmonia_py.nix import base32
from harmonia_py.nix.store_path import HASH_PART_LENGTH, HashPart

# About a hundred bytes of memory each. A system's closure has a few thousand paths, and a file may list them.
MAX_CANDIDATES: Final = 2**16
# A row of letters that is no hash part takes 0.1 µs a letter, so a scan ends after some 0.1 s of them.
_MAX_LOOKS: Final = 2**20

_DIGIT: Final = b"\1"
_OTHER: Final = b"\0"
_DIGITS: Final = bytes(chr(byte) in base32.ALPHABET for byte in range(256))
_ROW: Final = _DIGIT * HASH_PART_LENGTH
# A look at every eighth byte sees four digits of a hash part in a row. Of machine code, which is most of what
# there is, this leaves a tenth to be looked at byte by byte, and so the scan is faster than SHA-256.
_STRIDE: Final = 8
_SAMPLED_ROW: Final = _DIGIT * (HASH_PART_LENGTH // _STRIDE)
# One byte less than a hash part cannot hide one.
_BORDER: Final = HASH_PART_LENGTH - 1
# What is looked at byte by byte in one go, in samples: text has one row of samples behind the other.
_REGION: Final = 512


def digit_rows(data: bytes) -> Iterator[tuple[int, int]]:
    """Rows of at least 32 digits of base 32: the offsets of the first and behind the last, in order.

    A row that goes on for long comes in parts, and each hash part in it lies whole in one of these.
    """
    samples = data[_STRIDE - 1 :: _STRIDE].translate(_DIGITS)
    sample = samples.find(_SAMPLED_ROW)
    while sample >= 0:
        start, sample = sample * _STRIDE, sample + _REGION
        # A row that begins in this region may end behind it.
        for first, end in _rows_of(data[start : sample * _STRIDE + _BORDER]):
            yield start + first, start + end
        sample = samples.find(_SAMPLED_ROW, sample)


def _rows_of(data: bytes) -> Iterator[tuple[int, int]]:
    digits = data.translate(_DIGITS)
    start = digits.find(_ROW)
    while start >= 0:
        end = digits.find(_OTHER, start)
        end = len(digits) if end < 0 else end
        yield start, end
        start = digits.find(_ROW, end)


class ReferenceScan:
    """Takes bytes in chunks of any size; they make no difference to what is found.

    Attributes:
        found: the candidates so far.
        is_complete: False when there were too many to remember; then there may be others.
    """

    __slots__ = ("_looks", "_tail", "found", "is_complete")

    def __init__(self) -> None:
        self.found: set[HashPart] = set()
        self.is_complete = True
        self._tail = b""
        self._looks = 0

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self.is_complete:
            return
        self._look(self._tail + data[:_BORDER])
        self._look(data)
        self._tail = data[-_BORDER:] if len(data) >= _BORDER else (self._tail + data)[-_BORDER:]

    def _look(self, data: bytes) -> None:
        for start, end in digit_rows(data):
            self._add(data[start:end].decode("ascii"))
            if not self.is_complete:
                return

    def _add(self, row: str) -> None:
        """Remember every hash part in a row of digits."""
        if row.count(row[0]) == len(row):
            # The zeros and blanks of other formats may go on for megabytes.
            row = row[:HASH_PART_LENGTH]
        self._looks += len(row) - HASH_PART_LENGTH + 1
        self.found.update(
            HashPart(row[start : start + HASH_PART_LENGTH]) for start in range(len(row) - HASH_PART_LENGTH + 1)
        )
        self.is_complete = self._looks <= _MAX_LOOKS and len(self.found) <= MAX_CANDIDATES
