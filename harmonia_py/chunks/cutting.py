"""A NAR cut by content, into pieces many of which another build of the same program has as well.

It is cut where a large file begins and ends, so that the file is cut alike under any name and at any place; inside of
it where its bytes say so (FastCDC of 2020, with normalization 2); and before and behind references that stand close to
each other, so that few bytes have them. Small files are cut as one stream, with the names and padding between them.
"""

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

from pyfastcdc import FastCDC

from harmonia_py.chunks.references import ReferenceRemover
from harmonia_py.chunks.sizes import SIZES, CutSizes
from harmonia_py.nix.nar import Regular
from harmonia_py.nix.nar_parser import Parser
from harmonia_py.nix.store_path import HASH_PART_LENGTH, HashPart

# Cut in one go; the last cut of such a portion is not known yet.
_PORTION_CHUNKS: Final = 4


class Cutter:
    """Cuts a NAR, which comes in portions of any size: they make no difference to the pieces.

    Args:
        references: the hash parts that are taken out, at most 65,536; the order is that of their numbers.
        sizes: of pieces.

    Attributes:
        nar_size: bytes so far.
        places: offsets in the NAR of the hash parts that were found so far, in order.
        numbers: the numbers of the hash parts at `places`.
    """

    def __init__(self, references: Collection[HashPart], sizes: CutSizes = SIZES) -> None:
        self.nar_size = 0
        self._sizes = sizes
        self._remover = ReferenceRemover({part.encode(): number for number, part in enumerate(references)})
        self.places, self.numbers = self._remover.places, self._remover.numbers
        self._parser = Parser()
        self._cdc = FastCDC(sizes.usual, min_size=sizes.least, max_size=sizes.most, normalized_chunking=2)
        self._run = bytearray()  # what is not cut yet
        self._start = 0  # where it begins in the NAR
        self._borders: deque[int] = deque()  # of large files, behind that
        self._next = 0  # of the references found, the first that does not end before `_start`

    def update(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; gives the pieces that they complete, without hash parts.

        Raises:
            FormatError: they are no NAR.
        """
        self._look_for_borders(data)
        self.nar_size += len(data)
        self._run += self._remover.update(data)
        yield from self._cut_run()

    def finish(self) -> Iterator[bytes]:
        """Say that this was all; gives the last pieces.

        Raises:
            FormatError: the archive is not complete.
        """
        self._parser.close()
        self._run += self._remover.finish()
        yield from self._cut_run()
        yield from self._pieces(len(self._run), is_end=True)

    def _look_for_borders(self, data: bytes) -> None:
        events = self._parser.feed(data)
        offsets = iter(self._parser.offsets)
        for event in events:
            if isinstance(event, Regular):
                offset = next(offsets)
                if event.size >= self._sizes.large_file:
                    self._borders += (offset, offset + event.size)

    def _cut_run(self) -> Iterator[bytes]:
        while self._borders and self._start + len(self._run) >= self._borders[0]:
            yield from self._pieces(self._borders.popleft() - self._start, is_end=True)
        if len(self._run) >= _PORTION_CHUNKS * self._sizes.most:
            yield from self._pieces(len(self._run), is_end=False)

    def _pieces(self, size: int, *, is_end: bool) -> Iterator[bytes]:
        """Cut the first `size` bytes that are left; with `is_end`, to the last of them."""
        if not size:
            return
        run = bytes(memoryview(self._run)[:size])
        lengths = [chunk.length for chunk in self._cdc.cut_buf(run)]
        begin = 0
        for length in lengths if is_end else lengths[:-1]:
            yield from self._apart(run[begin : begin + length], self._start + begin)
            begin += length
        del self._run[:begin]
        self._start += begin

    def _apart(self, chunk: bytes, start: int) -> Iterator[bytes]:
        """A chunk, cut before and behind its references where that pays."""
        end, gap = start + len(chunk), self._sizes.gap
        places, done = self.places, start
        while self._next < len(places) and places[self._next] + HASH_PART_LENGTH <= start:
            self._next += 1
        at = self._next
        while at < len(places) and places[at] < end:
            first, last = places[at], min(end, places[at] + HASH_PART_LENGTH)
            while at < len(places) and places[at] < min(end, last + gap):
                last = min(end, places[at] + HASH_PART_LENGTH)
                at += 1
            for border in (first, last):
                if gap <= (border - done if border == first else end - border):
                    yield chunk[done - start : border - start]
                    done = border
        if done < end:
            yield chunk[done - start :]
