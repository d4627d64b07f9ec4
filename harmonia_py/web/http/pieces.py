"""Pieces of a download where the kernel cannot copy for us: through memory, for TLS, codings and small answers."""

import os
from collections.abc import Generator, Iterator
from typing import Final

from harmonia_py.cache.source import Download, FileSlice, Pause, Piece
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


def at_hand(download: Download, start: int, stop: int) -> bytes | None:
    """Bytes of a download that are in memory, or in the page cache; None when a thread has to wait for them."""
    if download.data is not None:
        return download.data[start:stop]
    if download.file is None:
        return None
    return cached(FileSlice(download.file.fd, download.file.offset + start, stop - start))


def cached(file: FileSlice) -> bytes | None:
    """The bytes of a slice; None when the page cache does not have all of them, or the file system does not tell."""
    buffer = bytearray(file.size)
    try:
        count = os.preadv(file.fd, [buffer], file.offset, os.RWF_NOWAIT)
    except OSError:
        return None
    return bytes(buffer) if count == file.size else None


def close_pieces(pieces: Iterator[Piece]) -> None:
    """End the generator, if it is one."""
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
