"""Pieces of a download where the kernel cannot copy for us: through memory, for TLS, codings and small answers."""

import os
from collections.abc import Generator, Iterator
from typing import Final

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.errors import StorePathChanged

# Bytes that pass through memory at a time.
COPY_BYTES: Final = 256 * 1024


def in_memory(pieces: Iterator[Piece]) -> Generator[bytes | Pause, None, None]:
    """`pieces` with slices of files read into memory, a little at a time; closing it closes `pieces`."""
    try:
        for piece in pieces:
            if not isinstance(piece, FileSlice):
                yield piece
                continue
            offset, stop = piece.offset, piece.offset + piece.size
            while offset < stop:
                data = os.pread(piece.fd, min(COPY_BYTES, stop - offset), offset)
                if not data:
                    raise StorePathChanged("a file became shorter while it was being sent")
                offset += len(data)
                yield data
    finally:
        close_pieces(pieces)


def gather(parts: Iterator[bytes | Pause], data: list[bytes]) -> Pause | None:
    """Append the next parts to `data`, up to a pause, which is returned, or to the end (None)."""
    for part in parts:
        if isinstance(part, Pause):
            return part
        data.append(part)
    return None


def close_pieces(pieces: Iterator[Piece]) -> None:
    """End the generator, if it is one."""
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
