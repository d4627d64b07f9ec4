"""The frames in a pack, read and held against the hashes of their chunks."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Final

from harmonia_py.chunks.catalog import PackedChunk
from harmonia_py.chunks.frames import decompress_frame
from harmonia_py.chunks.reading import Unreadable, bytes_of
from harmonia_py.contents.blobs import Blob
from harmonia_py.errors import FormatError

_log = logging.getLogger(__name__)

# Bytes of a pack that are read together, and the longest gap between two chunks that is read with them.
_READ_BYTES: Final = 8 * 1024 * 1024
_GAP_BYTES: Final = 64 * 1024


def wrong_chunks(blob: Blob, chunks: Sequence[PackedChunk]) -> list[PackedChunk]:
    """Those of some chunks of a pack, in the order of their places, whose bytes are missing or wrong.

    Those that the disk cannot read are not among them.

    Raises:
        StorageError: that cannot be told for now.
    """
    frames = frames_of(blob, chunks)
    return [chunk for chunk, frame in frames if frame is not None and not is_right(frame, chunk)]


def frames_of(blob: Blob, chunks: Sequence[PackedChunk]) -> Iterator[tuple[PackedChunk, memoryview | None]]:
    """Chunks in the order of their places, each with its frame: empty behind the end of the pack, None if unreadable.

    Frames that lie close to each other are read together: in a bucket each read is a request.
    """
    for run in _runs(chunks):
        start, together = run[0].offset, _bytes(blob, run[0].offset, end_of(run))
        for chunk in run:
            if together:
                yield chunk, together[chunk.offset - start : chunk.offset - start + chunk.size]
            else:
                # One by one, so that a bad block costs no chunk beside it.
                yield chunk, _bytes(blob, chunk.offset, chunk.offset + chunk.size)


def _runs(chunks: Sequence[PackedChunk]) -> Iterator[list[PackedChunk]]:
    run: list[PackedChunk] = []
    for chunk in chunks:
        if run and (chunk.offset > end_of(run) + _GAP_BYTES or chunk.offset + chunk.size > run[0].offset + _READ_BYTES):
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


def _bytes(blob: Blob, start: int, stop: int) -> memoryview | None:
    """Bytes of a pack: empty when it is too short, None when the disk cannot read all of them."""
    if stop > blob.size:
        return memoryview(b"")
    try:
        return memoryview(bytes_of(blob, start, stop - start))
    except Unreadable as error:
        _log.warning("chunks cannot be read: %s", error)
        return None


def is_right(frame: bytes | memoryview, chunk: PackedChunk) -> bool:
    """Whether a frame has the bytes of its chunk."""
    try:
        return hashlib.sha256(decompress_frame(frame)).digest() == chunk.chunk
    except FormatError:
        return False


def end_of(chunks: Sequence[PackedChunk]) -> int:
    """The end of the last of some chunks in the order of their places."""
    return chunks[-1].offset + chunks[-1].size if chunks else 0
