"""Recipes: how a NAR is made of chunks. A recipe is kept in the place of the NAR's file.

A recipe has segments, in the order of the NAR: chunks, and literals, which are pieces too short to be chunks. Both are
without the hash parts of references, which have a table of their own and a list of places. The recipe tells where each
segment ends in the NAR and in the file that is sent, so that any range is found by bisection.

The file that is sent consists of frames of zstd: a chunk without references is sent as the frame that is kept, all
other segments as frames that store bytes uncompressed. So the file follows from the recipe and the frames of its
chunks, and keeps its length and its hash.
"""

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import accumulate, compress
from operator import not_, or_
from typing import Final, NewType

from harmonia_py.chunks.columns import format_column, read_column
from harmonia_py.chunks.frames import compress_chunk, decompress_chunk, stored_frame_size
from harmonia_py.chunks.references import ZEROS
from harmonia_py.errors import FormatError
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HASH_PART_LENGTH, HashPart

ChunkHash = NewType("ChunkHash", bytes)
"""SHA-256 of a chunk as it was before it was compressed, without the hash parts of references."""

HASH_BYTES: Final = 32
MAX_REFERENCES: Final = 2**16
"""Hash parts that one recipe can number."""

_MAGIC: Final = b"hpy-rcp1"
# NarHash, NarSize; numbers of references, segments, chunks, bytes of literals, places; what all columns take.
_HEAD: Final = struct.Struct("<32sQIIIIIQ")
_REFERENCE_BYTES: Final = HASH_PART_LENGTH * 5 // 8
_LEVEL: Final = 3
# The columns of a NAR of a terabyte that is cut into chunks of 64 KiB.
_MAX_BYTES: Final = 2**30

# Bytes of a value in a column.
_SIZE: Final = 4
_PLACE: Final = 8
_NUMBER: Final = 2


@dataclass(slots=True, eq=False, repr=False)
class Recipe:
    """A NAR in segments, numbered from 0.

    Attributes:
        nar_hash: of the NAR.
        references: the hash parts that were taken out.
        sizes: bytes of the NAR that are in each segment.
        frame_sizes: the length of the frame of each chunk; 0 for literals.
        hashes: of the chunks, one behind the other.
        literals: the bytes of all literals, without hash parts.
        places: offsets in the NAR of the hash parts that were taken out, in order.
        numbers: of these, in `references`.
        nar_ends: offsets in the NAR at which segments end.
        file_ends: offsets in the file that is sent at which segments end.

    Raises:
        FormatError: the columns do not fit each other.
    """

    nar_hash: Hash
    references: Sequence[HashPart]
    _: KW_ONLY
    sizes: "array[int]"
    frame_sizes: "array[int]"
    hashes: bytes
    literals: bytes
    places: "array[int]"
    numbers: "array[int]"
    nar_ends: "array[int]" = field(init=False)
    file_ends: "array[int]" = field(init=False)
    _literals_at: "array[int]" = field(init=False)
    _literal_ends: "array[int]" = field(init=False)
    _has_references: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.references = tuple(self.references)
        # The first byte of a download waits for these sums: they are made column by column, not segment by segment.
        self.nar_ends = array("Q", accumulate(self.sizes))
        self._literals_at = array("I", compress(range(len(self.sizes)), map(not_, self.frame_sizes)))
        self._literal_ends = array("Q", accumulate(map(self.sizes.__getitem__, self._literals_at)))
        self._check()
        self._has_references = self._segments_with_references()
        self.file_ends = array("Q", accumulate(self._file_sizes()))

    def _check(self) -> None:
        if (
            0 in self.sizes
            or len(self.sizes) != len(self.frame_sizes)
            or sum(self._literal_ends[-1:]) != len(self.literals)
            or len(self.hashes) != self._chunks_before(self.segments) * HASH_BYTES
            or len(self.places) != len(self.numbers)
            or max(self.numbers, default=-1) >= len(self.references)
        ):
            raise FormatError("the columns of a recipe do not fit each other")
        behind = 0
        for place in self.places:
            if place < behind:
                raise FormatError("the places of references are out of order")
            behind = place + HASH_PART_LENGTH
        if behind > self.nar_size:
            raise FormatError("a reference is behind the end of the archive")

    @property
    def nar_size(self) -> int:
        """Number of bytes of the NAR."""
        return self.nar_ends[-1] if self.nar_ends else 0

    @property
    def file_size(self) -> int:
        """Number of bytes of the file that is sent."""
        return self.file_ends[-1] if self.file_ends else 0

    @property
    def segments(self) -> int:
        """Number of segments."""
        return len(self.sizes)

    def _chunks_before(self, segment: int) -> int:
        return segment - bisect_left(self._literals_at, segment)

    def _chunks_from(self, number: int) -> Iterator[ChunkHash]:
        """The chunks of all segments in their order, from that of this number on."""
        for start in range(number * HASH_BYTES, len(self.hashes), HASH_BYTES):
            yield ChunkHash(self.hashes[start : start + HASH_BYTES])

    def chunks_in(self, first: int, last: int) -> list[ChunkHash | None]:
        """The chunks of the segments from `first` to `last`, None for literals."""
        hashes = self._chunks_from(self._chunks_before(first))
        return [next(hashes) if size else None for size in self.frame_sizes[first : last + 1]]

    def chunk(self, segment: int) -> ChunkHash | None:
        """The chunk of a segment, None for a literal."""
        return self.chunks_in(segment, segment)[0]

    def chunks(self) -> dict[ChunkHash, int]:
        """Every chunk once, with the length of its frame."""
        return dict(zip(self._chunks_from(0), filter(None, self.frame_sizes), strict=True))

    def chunk_sizes(self) -> dict[ChunkHash, int]:
        """Every chunk once, in the order of their first segments, with the number of its bytes in the NAR.

        Raises:
            FormatError: a chunk is said to have two lengths.
        """
        found: dict[ChunkHash, int] = {}
        for chunk, size in zip(self._chunks_from(0), compress(self.sizes, self.frame_sizes), strict=True):
            if found.setdefault(chunk, size) != size:
                raise FormatError("a chunk of a recipe has two lengths")
        return found

    def with_frames(self, frame_sizes: Mapping[ChunkHash, int]) -> "Recipe":
        """This recipe with other lengths of frames: of all of its chunks, and none of them 0."""
        chunks = self._chunks_from(0)
        own = array("I", (size and frame_sizes[next(chunks)] for size in self.frame_sizes))
        return replace(self, frame_sizes=own)

    def literal(self, segment: int) -> bytes:
        """The bytes of a literal, without hash parts."""
        end = self._literal_ends[bisect_left(self._literals_at, segment)]
        return self.literals[end - self.sizes[segment] : end]

    def restored(self, segment: int, data: bytes) -> bytes:
        """The bytes of a segment with the hash parts put back."""
        return self._with(segment, data, lambda number: self.references[number].encode())

    def taken_out(self, segment: int, data: bytes) -> bytes:
        """The bytes of a segment as they are in the NAR, without the hash parts."""
        return self._with(segment, data, lambda _: ZEROS)

    def _with(self, segment: int, data: bytes, hash_part_of: Callable[[int], bytes]) -> bytes:
        if not self._has_references[segment]:
            return data
        first, last = self._references_in(segment)
        start = self.nar_ends[segment] - self.sizes[segment]
        out = bytearray(data)
        for at in range(first, last):
            offset = self.places[at] - start
            hash_part = hash_part_of(self.numbers[at])
            # A cut may be in the middle of a hash part.
            begin, end = max(0, offset), min(len(data), offset + HASH_PART_LENGTH)
            out[begin:end] = hash_part[begin - offset : end - offset]
        return bytes(out)

    def _references_in(self, segment: int) -> tuple[int, int]:
        end = self.nar_ends[segment]
        start = end - self.sizes[segment]
        first = bisect_right(self.places, start)
        if first and self.places[first - 1] + HASH_PART_LENGTH > start:
            first -= 1
        return first, bisect_right(self.places, end - 1)

    def is_sent_as_kept(self, segment: int) -> bool:
        """Whether the frame of a chunk is part of the file that is sent."""
        return bool(self.frame_sizes[segment]) and not self._has_references[segment]

    def _segments_with_references(self) -> bytearray:
        found = bytearray(len(self.sizes))
        segment = 0
        for place in self.places:
            segment = bisect_right(self.nar_ends, place, segment)
            found[segment] = 1
            # A cut may be in the middle of a hash part.
            while self.nar_ends[segment] < place + HASH_PART_LENGTH:
                segment += 1
                found[segment] = 1
        return found

    def _file_sizes(self) -> list[int]:
        sizes = list(self.frame_sizes)
        for segment in compress(range(self.segments), map(or_, map(not_, sizes), self._has_references)):
            sizes[segment] = stored_frame_size(self.sizes[segment])
        return sizes

    def format(self) -> bytes:
        """The recipe as it is kept."""
        columns = [
            b"".join(base32.decode(reference) for reference in self.references),
            *map(format_column, (self.sizes, self.frame_sizes)),
            self.hashes,
            self.literals,
            *map(format_column, (self.places, self.numbers)),
        ]
        body = b"".join(columns)
        head = _HEAD.pack(
            self.nar_hash.digest, self.nar_size, len(self.references), self.segments,
            self._chunks_before(self.segments), len(self.literals), len(self.places), len(body),
        )  # fmt: skip
        return _MAGIC + head + compress_chunk(body, _LEVEL)

    @classmethod
    def parse(cls, data: bytes, most: int = _MAX_BYTES, most_segments: int = 2**32) -> "Recipe":
        """Read what `format` wrote, with so many segments at most, whose columns take so many bytes at most.

        Raises:
            FormatError: it is no recipe, one of a later version, or longer than that.
        """
        if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + _HEAD.size:
            raise FormatError("no recipe of a version that is known here")
        digest, nar_size, references, segments, chunks, literals, places, size = _HEAD.unpack_from(data, len(_MAGIC))
        lengths = (
            references * _REFERENCE_BYTES, segments * _SIZE, segments * _SIZE, chunks * HASH_BYTES, literals,
            places * _PLACE, places * _NUMBER,
        )  # fmt: skip
        if size > most or segments > most_segments or sum(lengths) != size:
            raise FormatError("the columns of a recipe do not fit each other")
        body = decompress_chunk(data[len(_MAGIC) + _HEAD.size :], size)
        ends = tuple(accumulate(lengths))
        columns = [body[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        recipe = cls(
            Hash("sha256", digest),
            _references(columns[0]),
            sizes=read_column("I", columns[1]),
            frame_sizes=read_column("I", columns[2]),
            hashes=columns[3],
            literals=columns[4],
            places=read_column("Q", columns[5]),
            numbers=read_column("H", columns[6]),
        )
        if recipe.nar_size != nar_size:
            raise FormatError("the segments of a recipe are not as long as the archive")
        return recipe


def _references(data: bytes) -> list[HashPart]:
    return [
        HashPart(base32.encode(data[start : start + _REFERENCE_BYTES]))
        for start in range(0, len(data), _REFERENCE_BYTES)
    ]
