"""The pieces of a download read through memory, for code that must see the bytes."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from typing import Final

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.runtime.slices import read_file
from harmonia_py.runtime.threads import in_thread

SliceReader = Callable[[FileSlice, bytearray], Iterator[memoryview]]
"""Reads a slice of a file through a buffer."""

# Large enough that a read, a hash and a compression cost more than calling them; it fits the processor's caches.
BUFFER_BYTES: Final = 1024 * 1024


def read_slice(piece: FileSlice, buffer: bytearray) -> Iterator[memoryview]:
    """The bytes of `piece` in portions, as `read_file` gives them. Raises what that raises."""
    return read_file(piece.fd, piece.offset, piece.size, buffer)


def portions(
    pieces: Iterator[Piece], size: int = BUFFER_BYTES, *, read: SliceReader = read_slice
) -> Generator[bytes | memoryview | Pause, None, None]:
    """The bytes of `pieces`, each portion good until the next is drawn; closing this closes `pieces`.

    Args:
        pieces: of a download.
        size: of the buffer, which need not be larger than the download.
        read: reads slices of files.
    """
    buffer = bytearray(max(1, min(size, BUFFER_BYTES)))
    try:
        for piece in pieces:
            if isinstance(piece, FileSlice):
                yield from read(piece, buffer)
            else:
                yield piece
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


def whole_portions(
    pieces: Iterator[Piece], size: int = BUFFER_BYTES, *, read: SliceReader = read_slice
) -> Generator[bytes | memoryview, None, None]:
    """The bytes of a file that is whole, as `portions` gives them.

    The thread that draws waits for bytes on their way from another machine.
    """
    found = portions(pieces, size, read=read)
    try:
        for portion in found:
            if isinstance(portion, Pause):
                portion.wait_in_thread()
            else:
                yield portion
    finally:
        found.close()


async def feed_all(
    threads: Executor, parts: Iterator[bytes | memoryview | Pause], take: Callable[[bytes | memoryview], object]
) -> None:
    """Have a thread give `take` all `parts`. During a pause the event loop waits, and no thread."""

    def feed() -> Pause | None:
        for part in parts:
            if isinstance(part, Pause):
                return part
            take(part)
        return None

    while (pause := await in_thread(threads, feed)) is not None:
        await pause.wait()
