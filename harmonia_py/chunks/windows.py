"""Windows: some successive segments of a download, with the places of their chunks and the packs of these open.

The catalog is asked for all chunks of a window together, while the windows before it are being sent. So the first byte
does not wait for the place of the last chunk, and memory does not grow with the file.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from harmonia_py.chunks.catalog import Place
from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import StorageError

Range = tuple[int, int]

OpenPack = Callable[[BlobKey, Sequence[Range]], Awaitable[Blob | None]]
"""Opens a blob of which only these ranges are read, which are in order and apart; None when there is none."""

# Rows of the catalog that are looked up together: some milliseconds.
_MOST_SEGMENTS: Final = 512
# One window takes this part of the budget that is left.
_SHARES: Final = 8


FindPlaces = Callable[[Collection[ChunkHash]], Awaitable[Mapping[ChunkHash, Place]]]
"""Tells the places of the chunks whose bytes are there. Raises `StorageError` when it cannot tell."""


class WindowSizes(Struct, frozen=True, kw_only=True):
    """How much of a download is at hand.

    Attributes:
        first: bytes of the first window, for which the first byte of the download waits.
        most: bytes of each other one, at most.
        least: bytes of one when `budget` is used up: a download goes on, with little ahead.
        ahead: windows that are opened while one is sent.
        budget: bytes of the windows of all downloads; None where packs are open files, which take no memory.
    """

    first: int
    most: int
    least: int
    ahead: int
    budget: int | None

    def of(self, held: int) -> int:
        """Bytes of the next window, while those of all downloads have `held`: a part of what is left for others too."""
        if self.budget is None:
            return self.most
        return max(self.least, min(self.most, (self.budget - held) // _SHARES))


class Span(NamedTuple):
    """Segments of a recipe that follow each other.

    Attributes:
        first: number of the first.
        last: number of the last.
        start: of the bytes of the first, the first that is wanted.
        stop: of the bytes of the last, the first that is not.
        size: number of all bytes.
    """

    first: int
    last: int
    start: int
    stop: int
    size: int


Segment = tuple[int, int, int | None, Blob | None, int, int]
"""Its number; which of its bytes are wanted, from where to where (None: to its end); the pack that has its frame, where
and how long that is there. A literal is in no pack."""


class ChunksUnknown(StorageError):
    """Whether a file has all its chunks is unknown for now: the catalog does not answer, or a blob does not open."""


class LostChunk(StorageError):
    """The bytes of a chunk are missing or wrong; `with_pack`: those of all chunks in its pack."""

    def __init__(self, chunk: ChunkHash, reason: str, *, with_pack: bool = False) -> None:
        super().__init__(f"a chunk is lost: {reason}")
        self.chunk = chunk
        self.reason = reason
        self.with_pack = with_pack


class Window:
    """Some segments of a download. Opened and closed in the event loop.

    Args:
        find: tells the places of chunks.
        open_pack: opens packs.
        recipe: of the file.
        span: the segments, and the bytes of the first and the last that are sent.
        windows: the windows of the download that are not closed; this one is added.

    Attributes:
        size: number of bytes that are sent of these segments.
    """

    def __init__(
        self, find: FindPlaces, open_pack: OpenPack, recipe: Recipe, span: Span, windows: "set[Window]"
    ) -> None:
        self.size = span.size
        self._find = find
        self._open_pack = open_pack
        self._recipe = recipe
        self._span = span
        self._wanted = recipe.chunks_in(span.first, span.last)
        self._windows = windows
        self._places: Mapping[ChunkHash, Place] = {}
        self._packs: dict[str, Blob] = {}
        self._error: StorageError | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_closed = False
        windows.add(self)

    async def open(self, previous: "Window | None", following: Sequence["Window"]) -> None:
        """Open the packs, and begin to open the windows that follow; an error is raised by `segments`.

        `previous`, which has been sent, is closed first.
        """
        if previous is not None:
            previous.close()
        opening = self.begin()
        await asyncio.shield(opening)
        for window in following:
            window.begin()

    def begin(self) -> "asyncio.Task[None]":
        """Begin to open the packs, unless that has begun."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return self._opening

    async def _open(self) -> None:
        try:
            for attempt in range(2):
                lost = await self._open_all()
                if lost is None:
                    return
                # A chunk may have been moved to another pack since its place was looked up: ask once more.
                if attempt:
                    self._error = lost
        except StorageError as error:
            self._error = ChunksUnknown(str(error))
        finally:
            if self._is_closed:
                self._release()

    async def _open_all(self) -> LostChunk | None:
        self._release()
        chunks = {chunk for chunk in self._wanted if chunk is not None}
        self._places = places = await self._find(chunks)
        missing = next((chunk for chunk in chunks if chunk not in places), None)
        if missing is not None:
            return LostChunk(missing, "it is not in the catalog")
        frames: dict[str, list[Range]] = {}
        for place in places.values():
            frames.setdefault(place.pack, []).append((place.offset, place.offset + place.size))
        opened = await asyncio.gather(
            *(self._open_pack(BlobKey(pack), merged(ranges)) for pack, ranges in frames.items()),
            return_exceptions=True,
        )
        self._packs = {pack: blob for pack, blob in zip(frames, opened, strict=True) if isinstance(blob, Blob)}
        for error in opened:
            if isinstance(error, BaseException):
                raise error
        for chunk, place in places.items():
            pack = self._packs.get(place.pack)
            if pack is None:
                return LostChunk(chunk, "its pack is missing", with_pack=True)
            if pack.size < place.offset + place.size:
                return LostChunk(chunk, "its pack is too short")
        return None

    def segments(self) -> Iterator[Segment]:
        """The segments with their places, in a thread.

        Raises:
            StorageError: a chunk cannot be had.
        """
        if self._error is not None:
            raise self._error
        recipe, places, packs = self._recipe, self._places, self._packs
        first, last, start, stop, _ = self._span
        for number, chunk in enumerate(self._wanted, first):
            end = stop if number == last else None
            if chunk is None:
                yield number, start, end, None, 0, 0
            else:
                pack, offset, size = places[chunk]
                if size != recipe.frame_sizes[number]:
                    # The chunk was lost and came again: it fits only the recipes that were made after that.
                    raise StorageError("a chunk was compressed in another way since")
                yield number, start, end, packs[pack], offset, size
            start = 0

    def close(self) -> None:
        """Let go of the packs."""
        self._windows.discard(self)
        self._is_closed = True
        if self._opening is None or self._opening.done():
            self._release()

    def _release(self) -> None:
        packs, self._packs = self._packs, {}
        for blob in packs.values():
            blob.release()


def next_span(ends: Sequence[int], start: int, stop: int, size: int) -> Span:
    """The segments that have the bytes from `start` on: `size` or a few more, and none from `stop` on.

    Args:
        ends: offsets at which segments end.
        start: before `stop`.
        stop: the end of the last segment at most.
        size: of a window.
    """
    first = bisect_right(ends, start)
    last = min(bisect_left(ends, min(start + size, stop), first), first + _MOST_SEGMENTS - 1)
    before_first, before_last = (ends[number - 1] if number else 0 for number in (first, last))
    end = min(stop, ends[last])
    return Span(first, last, start - before_first, end - before_last, end - start)


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order, those that touch as one."""
    found: list[Range] = []
    for start, stop in sorted(ranges):
        if found and found[-1][1] >= start:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found
