"""Copies of files of a bucket, made while the files are sent. Everything here runs in threads, many at once."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.cache.source import FileSlice, Pause, Piece
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.nix.hashes import Hash
from harmonia_py.runtime.bounded import TimedSet
from harmonia_py.runtime.threads import Threads
from harmonia_py.runtime.warnings import RareWarning
from harmonia_py.storage.s3.copies import Copies
from harmonia_py.storage.s3.hot_metrics import HotCounters
from harmonia_py.storage.s3.unfinished_copy import UnfinishedCopy

_log = logging.getLogger(__name__)

# How long a directory that has failed is left alone: each download would wait for it.
_REST_SECONDS: Final = 10.0
# How long no copy is made of a file that is wrong in the bucket: it stays so until an administrator mends it.
_WRONG_SECONDS: Final = 3600.0
_MAX_WRONG: Final = 10_000
# Copies on their way: each is an open file, for as long as its client takes.
_MOST_AT_ONCE: Final = 64
# In the metadata of a copy. The first tells whether its file was changed on the disk: `storage/unchanged.py` reads it.
# The second is there where the bucket does not say the first.
_HASH: Final = "file_hash"
_ADDED: Final = "file_hash_added"


class Origin(Struct, frozen=True):
    """A file of the bucket that may be copied.

    Attributes:
        key: its key in the bucket.
        name: the key of its copy.
        sha256: its hash.
    """

    key: BlobKey
    name: BlobKey
    sha256: bytes


class Copying:
    """Makes copies of the files of one bucket.

    Args:
        copies: the directory.
        threads: keep copies, and evict them.
        counters: what is counted.
    """

    def __init__(self, copies: Copies, threads: Threads, counters: HotCounters) -> None:
        self._copies = copies
        self._threads = threads
        self._counters = counters
        self._lock = threading.Lock()
        self._keys: set[BlobKey] = set()
        self._wrong: TimedSet[BlobKey] = TimedSet(_MAX_WRONG)
        self._rests_until = 0.0
        self._warning = RareWarning(_log)

    @property
    def rests(self) -> bool:
        """Whether the directory has failed a moment ago."""
        return time.monotonic() < self._rests_until

    def rest(self, why: object) -> None:
        """Leave the directory alone for a while."""
        self._rests_until = time.monotonic() + _REST_SECONDS
        self._warning.say("copies of the bucket's files are not used for now: %s", why)

    def forget(self, key: BlobKey) -> None:
        """Forget that a file was wrong: it may be right now."""
        with self._lock:
            self._wrong.pop(key, None)

    def pieces(self, origin: Origin, blob: Blob, start: int, stop: int | None) -> Iterator[Piece]:
        """The pieces of a file of the bucket; if they are all of it, a copy is made of them on the way.

        Args:
            origin: the file.
            blob: the file, opened in the bucket.
            start: as in `Blob.pieces`.
            stop: likewise.
        """
        is_whole = start == 0 and (stop is None or stop >= blob.size)
        copy = self._begin(origin, blob.size) if is_whole else None
        if copy is None:
            yield from blob.pieces(start, stop)
            return
        try:
            for piece in blob.pieces(start, stop):
                if copy is not None:
                    copy = self._take(origin, copy, piece, blob.metadata)
                yield piece
        finally:
            if copy is not None:
                self._give_up(origin.key, copy)

    def recount(self) -> None:
        """Count the files: after a power cut there may be others than were counted."""
        try:
            self._copies.recount()
        except StorageError as error:
            self._failed(error)
        self._make_room(0)

    def _begin(self, origin: Origin, size: int) -> UnfinishedCopy | None:
        key = origin.key
        with self._lock:
            is_one_too_many = key in self._keys or len(self._keys) >= _MOST_AT_ONCE
            if self.rests or is_one_too_many or self._wrong.holds(key):
                return None
            self._keys.add(key)
        copy = None
        try:
            copy = self._copies.begin(size, origin.sha256)
        except StorageFull:
            self._threads.later(partial(self._make_room, size))
        except StorageError as error:
            self._failed(error)
        finally:
            if copy is None:
                self._end(key)
        return copy

    def _take(
        self, origin: Origin, copy: UnfinishedCopy, piece: Piece, metadata: Mapping[str, str]
    ) -> UnfinishedCopy | None:
        """Add a piece; None when the copy has ended."""
        if isinstance(piece, Pause):
            return copy
        assert not isinstance(piece, FileSlice), "what comes from a bucket is in memory"
        try:
            copy.add(piece)
        except StorageError as error:
            self._failed(error)
            self._give_up(origin.key, copy)
            return None
        if not copy.has_all:
            return copy
        if copy.is_right:
            self._threads.later(partial(self._keep, origin, copy, metadata))
        else:
            _log.error("%s: the bucket has other bytes than those of its hash", origin.key)
            with self._lock:
                self._wrong.add(origin.key, _WRONG_SECONDS)
            self._give_up(origin.key, copy)
        return None

    def _give_up(self, key: BlobKey, copy: UnfinishedCopy) -> None:
        self._end(key)
        self._threads.later(partial(self._copies.give_up, copy))

    def _keep(self, origin: Origin, copy: UnfinishedCopy, metadata: Mapping[str, str]) -> None:
        try:
            self._copies.keep(origin.name, copy, _with_hash(metadata, origin.sha256))
            self._counters.copied_bytes.add(copy.size)
        except StorageError as error:
            self._failed(error)
        finally:
            self._end(origin.key)
        self._make_room(0)

    def _make_room(self, wanted: int) -> None:
        try:
            self._counters.evicted_bytes.add(self._copies.make_room(wanted))
        except StorageError as error:
            self._failed(error)

    def _end(self, key: BlobKey) -> None:
        with self._lock:
            self._keys.discard(key)

    def _failed(self, error: StorageError) -> None:
        if isinstance(error, StorageFull):  # the copies that are there can still be read
            self._warning.say("files of the bucket are not copied for now: %s", error)
        else:
            self.rest(error)


def original(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """The metadata that the bucket has of a file, from the metadata of its copy."""
    if _ADDED not in metadata:
        return metadata
    return {name: value for name, value in metadata.items() if name not in (_HASH, _ADDED)}


def _with_hash(metadata: Mapping[str, str], sha256: bytes) -> Mapping[str, str]:
    if _HASH in metadata:
        return metadata
    return {**metadata, _HASH: str(Hash("sha256", sha256)), _ADDED: "yes"}
