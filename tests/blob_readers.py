"""Reads pieces as the web layer does: threads resume the generator, the event loop waits out the pauses."""

import asyncio
import os
from collections.abc import Generator, Iterator
from contextlib import suppress

from harmonia_py.cache.source import FileSlice, Pause, Piece


async def read_all(pieces: Iterator[Piece]) -> bytes:
    """All bytes of `pieces`."""
    data = bytearray()
    try:
        async with asyncio.timeout(60):
            while (piece := await asyncio.to_thread(_next, pieces)) is not None:
                if isinstance(piece, Pause):
                    await piece.wait()
                else:
                    data += piece
    finally:
        await asyncio.to_thread(_close, pieces)
    return bytes(data)


def _close(pieces: Iterator[Piece]) -> None:
    if isinstance(pieces, Generator):
        with suppress(ValueError):  # a thread draws the next one still, and then the last reference is gone
            pieces.close()


def _next(pieces: Iterator[Piece]) -> bytes | Pause | None:
    piece = next(pieces, None)
    if not isinstance(piece, FileSlice):
        return piece
    data = os.pread(piece.fd, piece.size, piece.offset)
    assert len(data) == piece.size
    return data
