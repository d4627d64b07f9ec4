"""A spool and a blob store that may fail, or not be there at all: then nothing is kept, and downloads go on."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from harmonia_py.cache.source import NotAtOnce
from harmonia_py.contents.blobs import Blob, BlobKey, BlobStore, OpensAtOnce, SpooledFile
from harmonia_py.contents.spool import GrowingFile, Spool, SpoolWriter
from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

T = TypeVar("T")

# A disk that failed is left alone for so long, so that every request does not wait for it.
_REST_SECONDS: Final = 10.0


class NotKept(Exception):
    """The storage is of no use for this request, which is served in another way."""


class Storage:
    """The spool and the blobs of one place, either of which may fail.

    Args:
        spool: for files on their way; None when there is no place for them.
        blobs: for whole files.

    Attributes:
        blobs: for what lists and deletes; None when there is no place.
    """

    def __init__(self, spool: Spool | None = None, blobs: BlobStore | None = None) -> None:
        self.spool = spool
        self.blobs = blobs
        self._at_once: OpensAtOnce | None = blobs if isinstance(blobs, OpensAtOnce) else None
        self._rests_until = 0.0
        self._warning = RareWarning(_log)
        if blobs is None:
            _log.warning("no directory to keep files in: each download is made anew, without ranges")

    async def open(self, key: BlobKey) -> Blob | None:
        """The file, when it is whole.

        Raises:
            NotKept: as all methods do.
        """
        return await self.ask(lambda _, blobs: blobs.open(key))

    def open_at_once(self, key: BlobKey) -> Blob:
        """The file, if it is whole and can be opened without waiting.

        Raises:
            NotAtOnce: that cannot be told.
        """
        blob = None if self._at_once is None or self._rests() else self._at_once.open_at_once(key)
        if blob is None:
            raise NotAtOnce
        return blob

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a whole file."""
        return await self.ask(lambda _, blobs: blobs.metadata(key))

    async def follow(self, key: BlobKey) -> GrowingFile | None:
        """The file, when it is being written, by any process."""
        return await self.ask(lambda spool, _: spool.follow(key))

    async def begin(self, key: BlobKey, expected_size: int) -> SpoolWriter | None:
        """Begin a file; None when another writer has it. In the worst case it becomes `expected_size` long."""
        return await self.ask(lambda spool, _: spool.begin(key, expected_size))

    async def put(self, key: BlobKey, content: SpooledFile | bytes, metadata: Mapping[str, str]) -> None:
        """Keep a file."""
        await self.ask(lambda _, blobs: blobs.put(key, content, metadata))

    async def delete(self, key: BlobKey) -> None:
        """Remove a file."""
        await self.ask(lambda _, blobs: blobs.delete(key))

    async def ask(self, question: Callable[[Spool, BlobStore], Awaitable[T]]) -> T:
        """The answer of the spool or the blob store, unless they failed a moment ago."""
        if self.spool is None or self.blobs is None or self._rests():
            raise NotKept
        try:
            return await question(self.spool, self.blobs)
        except StorageError as error:
            # A full disk still has what it has: only a disk that fails is left alone.
            if not isinstance(error, StorageFull):
                self._rests_until = time.monotonic() + _REST_SECONDS
            self._warning.say("nothing is kept for now: %s", error)
            raise NotKept from error

    def _rests(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() < self._rests_until
