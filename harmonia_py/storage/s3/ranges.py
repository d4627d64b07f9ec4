"""Ranges of an object, in memory: what a download needs of a pack."""

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from obstore.exceptions import BaseError

from harmonia_py.cache.source import Piece
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.storage.s3.errors import UnlessAbsent, is_beyond, translated
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.storage.s3.stores import body_store

# Bytes between two ranges that are fetched with them: they take less time than a request, and at most as much memory
# again as a chunk of the usual size.
_GAP: Final = 64 * 1024
# Questions of this process at once, each of which the library answers with up to ten requests.
_QUESTIONS: Final = 32
_SECONDS: Final = 60.0
_PIECE_BYTES: Final = 256 * 1024


class S3Ranges:
    """Fetches ranges of objects. It belongs to the event loop in which it is made.

    Args:
        settings: of the bucket.

    Raises:
        StorageError: the bucket cannot be opened.
    """

    def __init__(self, settings: S3Settings) -> None:
        with translated("open the bucket"):
            self._store = body_store(settings)
        self._asking = asyncio.Semaphore(_QUESTIONS)

    async def open(self, key: BlobKey, ranges: Sequence[tuple[int, int]]) -> Blob | None:
        """A blob of which nothing but these ranges can be read; they are in order and apart. None when there is none.

        Its size is the end of the last range, or 0 when it is too short for one of them.

        Raises:
            StorageError: the bucket cannot tell.
        """
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        with translated("read parts of a file of the bucket"), UnlessAbsent():
            try:
                async with self._asking, asyncio.timeout(_SECONDS):
                    found = await self._store.get_ranges_async(key, starts=starts, ends=ends, coalesce=_GAP)
            except BaseError as error:
                if is_beyond(error):
                    return _too_short()
                raise
            parts = [memoryview(part) for part in found]
            if any(len(part) != end - start for part, (start, end) in zip(parts, ranges, strict=True)):
                return _too_short()
            return Blob(size=ends[-1], metadata={}, pieces=partial(_pieces, starts, parts))
        return None


def _too_short() -> Blob:
    return Blob(size=0, metadata={}, pieces=partial(_pieces, [], []))


def _pieces(starts: Sequence[int], parts: Sequence[memoryview], start: int, stop: int | None) -> Iterator[Piece]:
    number = bisect_right(starts, start) - 1
    if number < 0 or stop is None or stop - starts[number] > len(parts[number]):
        raise StorageError("bytes of a blob are read that were not asked for")
    part = parts[number][start - starts[number] : stop - starts[number]]
    for begin in range(0, len(part), _PIECE_BYTES):
        yield bytes(part[begin : begin + _PIECE_BYTES])
