"""A `BlobStore` with copies of lately read files of a bucket, in a directory of bounded size.

The first client that reads a whole file makes the copy, at its own pace; the next ones get it from the disk. A copy is
made only of a file whose hash is known, and kept only when it has that hash. The bucket decides: at most a minute
before a copy is opened, the bucket was asked whether it has this file still; if it has another, the copy is removed.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.contents.blobs import Blob, BlobInfo, BlobKey, SpooledFile
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.runtime.bounded import TimedSet
from harmonia_py.runtime.tasks import end_task
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.runtime.warnings import RareWarning
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.s3.blobs import S3Blobs
from harmonia_py.storage.s3.copies import Copies
from harmonia_py.storage.s3.copying import Copying, Origin, original
from harmonia_py.storage.s3.hot_metrics import HotCounters
from harmonia_py.storage.s3.objects import HEAD_BYTES

_log = logging.getLogger(__name__)

# How long a file that was deleted through another machine may still be served from a copy.
_CONFIRMED_SECONDS: Final = 60.0
_MAX_CONFIRMED: Final = 100_000
# A bucket that does not answer within this time is not asked for a while: copies are served meanwhile.
_ANSWER_SECONDS: Final = 2.0
_REST_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 15.0
# Characters from the end of a key in the name of its copy, for people to read.
_NAME_CHARACTERS: Final = 100
# The file of a plain binary cache is named by its hash.
_NAMED_BY_HASH: Final = re.compile(r"nar/([0-9a-z]{52})\.nar(?:\.[0-9a-z]+)?", re.ASCII)


class HotSettings(Struct, frozen=True):
    """A directory of copies.

    Attributes:
        directory: of the copies.
        max_size: bytes that they may take together.
        min_free: bytes of the file system that stay free.
    """

    directory: Path
    max_size: int
    min_free: int


class HotBlobs:
    """A `BlobStore` over `bucket`. Enter it inside the event loop that uses it, after any fork.

    Args:
        bucket: is entered with it.
        settings: of the copies. Copies that other processes make there are served as well.
        counters: of copies; None: counted, not exported.

    Attributes:
        bucket: what is behind it.
    """

    def __init__(self, bucket: S3Blobs, settings: HotSettings, counters: HotCounters | None = None) -> None:
        self.bucket = bucket
        self.counters = counters or HotCounters()
        self._copies = Copies(settings.directory, settings.max_size, settings.min_free)
        self._files = DiskBlobs(settings.directory)
        self._threads = Threads(Pool.HOT)
        self._forgetting = Threads(Pool.HOT_FORGET)
        self._copying = Copying(self._copies, self._threads, self.counters)
        self._confirmed: TimedSet[BlobKey] = TimedSet(_MAX_CONFIRMED)
        self._rests_until = 0.0
        self._warning = RareWarning(_log)
        self._resources = AsyncExitStack()
        self._has_copies = False

    async def __aenter__(self) -> Self:
        """Open the bucket, and make the directory; if the directory cannot be used there are no copies.

        Raises:
            StorageError: the bucket cannot be opened.
        """
        async with AsyncExitStack() as resources:
            await resources.enter_async_context(self.bucket)
            resources.push_async_callback(self._threads.aclose)
            resources.push_async_callback(self._forgetting.aclose)
            try:
                await self._threads.in_time(self._copies.prepare)
                await resources.enter_async_context(self._files)
                self._has_copies = True
                self._threads.later(self._copying.recount)
            except StorageError as error:
                _log.warning("%s; each download is read from the bucket", error)
            resources.push_async_callback(end_task, asyncio.create_task(self._tick()))
            self._resources = resources.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    async def open(self, key: BlobKey) -> Blob | None:
        """The blob: a copy that is still right, or else the file of the bucket."""
        copy = await self._open_copy(key)
        if copy is not None:
            self.counters.hits.add()
            return copy
        blob = await self.bucket.open(key)
        if blob is None:
            return None
        sha256 = _sha256_of(key, blob.metadata) if self._has_copies else None
        if sha256 is None or not HEAD_BYTES < blob.size <= self._copies.largest:
            return blob
        self.counters.misses.add()
        return replace(blob, pieces=partial(self._copying.pieces, Origin(key, self._name_of(key), sha256), blob))

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a blob, as the bucket has them."""
        return await self.bucket.metadata(key)

    async def put(
        self, key: BlobKey, content: SpooledFile | bytes, metadata: Mapping[str, str], *, durable: bool = False
    ) -> None:
        """Upload the blob."""
        try:
            await self.bucket.put(key, content, metadata, durable=durable)
        finally:
            await self._forget(key)

    async def delete(self, key: BlobKey) -> None:
        """Remove a blob; its copy first."""
        await self._forget(key)
        await self.bucket.delete(key)

    def list(self) -> AsyncIterator[BlobInfo]:
        """Every blob of the bucket."""
        return self.bucket.list()

    async def _open_copy(self, key: BlobKey) -> Blob | None:
        copy = await self._open_file(key)
        if copy is None:
            return None
        metadata = original(copy.metadata)
        with ExitStack() as held:
            held.callback(copy.release)
            if await self._is_right(key, metadata):
                held.callback(self.bucket.hold(key))
                redirect = self.bucket.redirect_of(key, copy.size)
                return replace(copy, metadata=metadata, redirect=redirect, release=held.pop_all().close)
        await self._forget(key)
        return None

    async def _open_file(self, key: BlobKey) -> Blob | None:
        """The file of a copy; None as well while the directory fails, or does not answer soon."""
        if not self._has_copies or self._copying.rests:
            return None
        name = self._name_of(key)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._files.open(name)
        except (StorageError, TimeoutError) as error:
            self._copying.rest(str(error) or "the disk does not answer")
            # It may be this file alone that cannot be read, or is read anew because another program has changed it.
            self._forgetting.later(partial(self._copies.remove, name))
            return None

    async def _is_right(self, key: BlobKey, metadata: Mapping[str, str]) -> bool:
        """Whether the bucket has the file of a copy, or had it a moment ago, or cannot tell."""
        if self._confirmed.holds(key) or time.monotonic() < self._rests_until:
            return True
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                there = await self.bucket.metadata_at_once(key)
        except (StorageError, TimeoutError) as error:
            # It is the right file, and what names it was asked before.
            self._rests_until = time.monotonic() + _REST_SECONDS
            self._warning.say("copies are served that the bucket does not confirm: %s", error or "no answer")
            return True
        if there != metadata:
            return False
        self._confirmed.add(key, _CONFIRMED_SECONDS)
        return True

    async def _forget(self, key: BlobKey) -> None:
        """Remove a copy. One that is left behind, because the disk fails, is not served before the bucket is asked."""
        self._confirmed.pop(key, None)
        self._copying.forget(key)
        if not self._has_copies or self._copying.rests:
            return
        try:
            await self._forgetting.in_time(partial(self._copies.remove, self._name_of(key)))
        except StorageError as error:
            self._copying.rest(error)

    def _name_of(self, key: BlobKey) -> BlobKey:
        """The key of a copy: other parts of the bucket, whose copies are in the same directory, have equal keys."""
        digest = hashlib.blake2b(f"{self.bucket.place}\n{key}".encode(), digest_size=20).hexdigest()
        return BlobKey(f"{digest}-{key.rpartition('/')[2][-_NAME_CHARACTERS:]}")

    async def _tick(self) -> None:
        while True:
            with suppress(StorageError):
                self.counters.bytes.set(await self._threads.in_time(self._copies.size))
            await asyncio.sleep(_TICK_SECONDS)


def _sha256_of(key: BlobKey, metadata: Mapping[str, str]) -> bytes | None:
    """The hash of a file, as what wrote it has noted it, or as it is named."""
    named = _NAMED_BY_HASH.fullmatch(key)
    text = metadata.get("file_hash") or (f"sha256:{named[1]}" if named is not None else "")
    try:
        return Hash.parse(text, "sha256").digest
    except FormatError:
        return None
