"""Chunks that a client has sent with a recipe, for the one file that is made by it."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.cache.source import FileSlice, Piece
from harmonia_py.chunks.catalog import Place
from harmonia_py.chunks.frames import decompress_chunk, stored_frame_size
from harmonia_py.chunks.reading import bytes_of
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.chunks.sizes import MAX_CHUNK_BYTES
from harmonia_py.chunks.windows import FindPlaces, OpenPack, Range
from harmonia_py.contents.blobs import Blob, BlobKey, SpooledFile
from harmonia_py.errors import FormatError

_SENT: Final = BlobKey("sent")
"""The key of what is sent. No pack has it."""


class SentChunks(Struct, frozen=True):
    """The chunks that a client has sent, one frame behind the other in a file of the spool.

    Attributes:
        file: with the frames; None when none was sent. It is good as long as its writer is open.
        places: of the frames.
    """

    file: SpooledFile | None = None
    places: Mapping[ChunkHash, Place] = {}

    @classmethod
    def checked(
        cls, file: SpooledFile | None, sizes: Mapping[ChunkHash, int], frame_sizes: Mapping[ChunkHash, int]
    ) -> "SentChunks":
        """The chunks, each of which is what its hash says. It computes: a thread calls it.

        Args:
            file: with the frames, in the order of `sizes`, and nothing behind them.
            sizes: bytes of each chunk.
            frame_sizes: bytes of the frame of each chunk.

        Raises:
            FormatError: they are others.
        """
        places: dict[ChunkHash, Place] = {}
        offset = 0
        for chunk, size in sizes.items():
            places[chunk] = Place(_SENT, offset, frame_sizes[chunk])
            offset += frame_sizes[chunk]
            # What frames may have beside their bytes is bounded: a checksum, and a header for each block.
            if size > MAX_CHUNK_BYTES or frame_sizes[chunk] > 2 * stored_frame_size(size):
                raise FormatError("a chunk, or its frame, is longer than those that are cut")
        sent = cls(file, places)
        for chunk, (_, start, length) in places.items():
            data = decompress_chunk(bytes_of(sent._blob(), start, length), sizes[chunk])
            if hashlib.sha256(data).digest() != chunk:
                raise FormatError("a chunk has another hash")
        return sent

    def found_beside(self, find: FindPlaces) -> FindPlaces:
        """Tells the places of these chunks, and of those that are kept."""

        async def found(chunks: Collection[ChunkHash]) -> Mapping[ChunkHash, Place]:
            kept = await find([chunk for chunk in chunks if chunk not in self.places])
            return {**kept, **{chunk: self.places[chunk] for chunk in chunks if chunk in self.places}}

        return found

    def opened_beside(self, open_pack: OpenPack) -> OpenPack:
        """Opens packs, and what was sent."""

        async def opened(key: BlobKey, ranges: Sequence[Range]) -> Blob | None:
            return self._blob() if key == _SENT else await open_pack(key, ranges)

        return opened

    def _blob(self) -> Blob:
        file = self.file
        assert file is not None, "no chunk is in no file"

        def pieces(start: int, stop: int | None) -> Iterator[Piece]:
            yield FileSlice(file.fd, start, (file.size if stop is None else stop) - start)

        return Blob(size=file.size, metadata={}, pieces=pieces)
