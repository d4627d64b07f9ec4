"""One download of a file that is made of chunks: its windows in order, and the bytes of each that clients get.

Frames that are neighbours in a pack leave as one slice of it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, Final

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.chunks.frames import decompress_chunk, stored_frame
from harmonia_py.chunks.reading import bytes_of
from harmonia_py.chunks.recipe import Recipe
from harmonia_py.chunks.windows import (
    ChunksUnknown,
    FindPlaces,
    LostChunk,
    OpenPack,
    Segment,
    Window,
    WindowSizes,
    next_span,
)
from harmonia_py.contents.blobs import Blob
from harmonia_py.errors import FormatError

# Below this a write of its own costs more than a copy.
_GATHERED_BYTES: Final = 128 * 1024

# How long a thread waits for a window: twice as long as the catalog (10 s) and a question to a bucket (60 s) may take,
# because a window that misses a chunk is looked up once more.
_WAIT_SECONDS: Final = 140.0


NoteLost = Callable[[LostChunk], Coroutine[Any, Any, None]]


class Sending:
    """One download. A window's packs are open until the window is sent, and all others until the download is released.

    Args:
        recipe: of the file.
        find: tells the places of chunks.
        open_pack: opens packs.
        sizes: of windows.
        downloads: all downloads under way; this one is among them until it is released.
        note_lost: is told of a lost chunk.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        find: FindPlaces,
        open_pack: OpenPack,
        sizes: WindowSizes,
        downloads: "set[Sending]",
        note_lost: NoteLost,
    ) -> None:
        self._recipe = recipe
        self._find = find
        self._open_pack = open_pack
        self._sizes = sizes
        self._downloads = downloads
        self._note_lost = note_lost
        self._windows: set[Window] = set()
        self._loop = asyncio.get_running_loop()
        downloads.add(self)

    @property
    def held(self) -> int:
        """Bytes of the windows that are not closed."""
        return sum(window.size for window in list(self._windows))

    def release(self) -> None:
        """Close all packs."""
        self._downloads.discard(self)
        for window in list(self._windows):
            window.close()

    def file_pieces(self, start: int, stop: int | None) -> Iterator[Piece]:
        """The file as zstd."""
        return self._pieces(self._recipe.file_ends, start, stop, self._frames)

    def nar_pieces(self, start: int, stop: int | None) -> Iterator[Piece]:
        """The NAR."""
        return self._pieces(self._recipe.nar_ends, start, stop, self._plain)

    def _pieces(
        self,
        ends: Sequence[int],
        start: int,
        stop: int | None,
        render: Callable[[Iterator[Segment]], Iterator[Piece]],
    ) -> Iterator[Piece]:
        end = ends[-1] if ends else 0
        stop = end if stop is None else min(stop, end)
        size = self._sizes.first
        windows: deque[Window] = deque()
        previous = None
        while True:
            while len(windows) <= self._sizes.ahead and start < stop:
                span = next_span(ends, start, stop, size)
                start += span.size
                windows.append(Window(self._find, self._open_pack, self._recipe, span, self._windows))
                # Threads of other downloads add windows meanwhile.
                size = self._sizes.of(sum(download.held for download in list(self._downloads)))
            if not windows:
                return
            window = windows.popleft()
            yield self._pause(partial(window.open, previous, tuple(windows)))
            try:
                yield from render(window.segments())
            except LostChunk as lost:
                yield self._pause(partial(self._note_lost, lost))
                raise
            previous = window

    def _pause(self, call: Callable[[], Coroutine[Any, Any, None]]) -> Pause:
        late = ChunksUnknown("the catalog, the disk or the bucket does not answer in time")
        return Pause.until_done(call, self._loop, _WAIT_SECONDS, late)

    def _frames(self, segments: Iterator[Segment]) -> Iterator[Piece]:
        """Frames as they are kept, neighbours together, and between them frames that are made here."""
        made = bytearray()
        pack: Blob | None = None
        begin = end = 0  # what is to be sent of that pack
        is_sent_as_kept = self._recipe.is_sent_as_kept
        for number, start, stop, found, offset, size in segments:
            if found is not None and is_sent_as_kept(number):
                if found is pack and offset + start == end:
                    end = offset + (size if stop is None else stop)
                    continue
                if pack is not None:
                    yield from pack.pieces(begin, end)
                if made:
                    yield bytes(made)
                    made.clear()
                pack, begin, end = found, offset + start, offset + (size if stop is None else stop)
                continue
            if pack is not None:
                yield from pack.pieces(begin, end)
                pack = None
            made += stored_frame(self._plain_bytes(number, found, offset, size))[start:stop]
            if len(made) >= _GATHERED_BYTES:
                yield bytes(made)
                made.clear()
        if pack is not None:
            yield from pack.pieces(begin, end)
        if made:
            yield bytes(made)

    def _plain(self, segments: Iterator[Segment]) -> Iterator[Piece]:
        made = bytearray()
        for number, start, stop, pack, offset, size in segments:
            made += self._plain_bytes(number, pack, offset, size)[start:stop]
            if len(made) >= _GATHERED_BYTES:
                yield bytes(made)
                made.clear()
        if made:
            yield bytes(made)

    def _plain_bytes(self, number: int, pack: Blob | None, offset: int, size: int) -> bytes:
        if pack is None:
            return self._recipe.restored(number, self._recipe.literal(number))
        frame = bytes_of(pack, offset, size)
        try:
            return self._recipe.restored(number, decompress_chunk(frame, self._recipe.sizes[number]))
        except FormatError as error:
            chunk = self._recipe.chunk(number)
            assert chunk is not None
            raise LostChunk(chunk, str(error)) from error
