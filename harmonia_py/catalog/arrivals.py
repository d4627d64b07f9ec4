"""Files that were left behind by a process that was killed while it took them in.

A file is in the storage a moment before the catalog is told that it has come. A process that is killed in between
leaves a file that takes up room, is swept with its push a day later, and until then is counted by no limit.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import COMPRESSIONS_BY_SUFFIX
from harmonia_py.runtime.side_by_side import side_by_side
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

# What a live process takes in meanwhile is told to the catalog within this time of being there.
_SECONDS: Final = 10
# Looks at the storage of one pass: a second or two of a bucket's time. Uploads that failed are among them for a day.
_LOOKS: Final = 256
_AT_ONCE: Final = 16


class ExpectedFile(Struct, frozen=True, kw_only=True):
    """A file that a push said it would bring, and that has not come as far as the catalog knows.

    Attributes:
        cache: that it was to come to.
        file_hash: of the file.
        blob_key: of its bytes, when they have come.
        since: when it was expected last.
    """

    cache: CacheId
    file_hash: Hash
    blob_key: str
    since: Timestamp


class Arrivals(Protocol):
    """Expected files. Each method is one transaction, and raises `StorageError` when the catalog cannot tell."""

    async def expected(self, after: ExpectedFile | None, before: Timestamp, limit: int) -> Sequence[ExpectedFile]:
        """Up to `limit` files that were expected before, in one order, those that follow `after`."""

    async def count(self, expected: ExpectedFile, file: NarFile, *, now: Timestamp) -> None:
        """Count a file, whose bytes are there, among those that are stored, while it is expected as it was.

        It becomes no file that the cache was sent: another cache may have sent it, and nothing tells which did.
        """

    async def is_counted(self, cache: CacheId, file_hash: Hash, file_size: int) -> bool:
        """Whether this cache expects a file that is counted already, with this size."""


class LeftBehind:
    """Has files counted that a killed process has left behind.

    Args:
        arrivals: tells which may be there.
        blobs: tells which are.
    """

    def __init__(self, arrivals: Arrivals, blobs: BlobStore) -> None:
        self._arrivals = arrivals
        self._blobs = blobs
        self._after: ExpectedFile | None = None
        self._warning = RareWarning(_log)

    async def count(self, now: Timestamp) -> None:
        """Look at some of the expected files, each time at those that follow; at one that cannot be read another time.

        Raises:
            StorageError: the catalog cannot tell, or the storage of none of sixteen that are looked at together.
        """
        page = await self._arrivals.expected(self._after, Timestamp(now - _SECONDS), _LOOKS)
        for start in range(0, len(page), _AT_ONCE):
            await self._look_together(page[start : start + _AT_ONCE], now)
        if len(page) < _LOOKS:
            self._after = None

    async def _look_together(self, some: Sequence[ExpectedFile], now: Timestamp) -> None:
        errors: list[StorageError] = []
        await side_by_side(partial(self._look, now, errors), some, at_once=_AT_ONCE)
        # Also when none could be read: files that never can be must not end every pass at the same place.
        self._after = some[-1]
        if len(errors) == _AT_ONCE:
            # A storage that does not answer costs one wait of its time limit, and not one for each few files.
            raise errors[0]

    async def _look(self, now: Timestamp, errors: list[StorageError], expected: ExpectedFile) -> None:
        try:
            size = await self._size(BlobKey(expected.blob_key))
        except StorageError as error:
            self._warning.say("cannot tell whether %s was left behind: %s", expected.blob_key, error)
            errors.append(error)
            return
        if size is not None:
            await self._arrivals.count(expected, _file(expected, size), now=now)

    async def _size(self, key: BlobKey) -> int | None:
        # Nearly all are absent, and to ask for the metadata costs less than to open.
        if await self._blobs.metadata(key) is None:
            return None
        blob = await self._blobs.open(key)
        if blob is None:
            return None
        with blob:
            return blob.size


def _file(expected: ExpectedFile, size: int) -> NarFile:
    suffix = expected.blob_key.rpartition(".nar")[2]
    return NarFile(
        file_hash=expected.file_hash,
        file_size=size,
        compression=COMPRESSIONS_BY_SUFFIX[suffix],
        blob_key=expected.blob_key,
    )
