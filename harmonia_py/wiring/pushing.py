"""The things that a process has open for caches that are pushed to: a directory or a bucket, and threads for all."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from harmonia_py.cache.checks import Check
from harmonia_py.cache.source import Download
from harmonia_py.catalog.caches import CacheId, CacheRow, Timestamp
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.catalog.quarantine import Quarantine, QuarantineCounters
from harmonia_py.catalog.stored import RemovalWatch, StoredObjects
from harmonia_py.config.settings import Config
from harmonia_py.contents.blobs import BlobKey, BlobStore, OpensAtOnce
from harmonia_py.contents.encoders import Zstd
from harmonia_py.contents.fsck import Digests
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import Topic
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.push.listing_renewal import ListingRenewal
from harmonia_py.push.listings import LongListings
from harmonia_py.push.making import Making
from harmonia_py.push.parts import PartUploads, SizesWithParts
from harmonia_py.push.push_metrics import PushCounters
from harmonia_py.push.receiving import Receiver
from harmonia_py.push.static_listings import StaticListings
from harmonia_py.push.static_writer import StaticWriter
from harmonia_py.push.texts import TextKeeper
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.partial_files import DiskPartialFiles
from harmonia_py.storage.slices import read_slice
from harmonia_py.storage.spool import DiskSpool
from harmonia_py.wiring.bucket import hot_settings, s3_settings
from harmonia_py.wiring.catalog import pushed_directory
from harmonia_py.wiring.chunking import Chunking
from harmonia_py.wiring.files import OpenFiles, Space, open_files
from harmonia_py.wiring.past_server import past_server
from harmonia_py.wiring.pools import running
from harmonia_py.wiring.publishing import Publishing
from harmonia_py.wiring.pushed_caches import PushedCaches
from harmonia_py.wiring.slices import slice_of

if TYPE_CHECKING:
    from harmonia_py.storage.s3.hot import HotSettings
    from harmonia_py.storage.s3.settings import S3Settings


class PushNode:
    """The things that a process has open for caches that are pushed to. Enter it inside its event loop, after any fork.

    Args:
        directory: of the files; with a bucket, of files on their way.
        catalog: of the caches.
        store_dir: of all caches.
        metrics: the counters of this process.
        s3: the bucket that the files are kept in; None for the directory.
        hot: the copies of the bucket's files on this machine; None for none.
        zstd: compresses NARs that clients send bare.
        clock: seconds since the epoch, for when paths were last asked for.

    Attributes:
        static_writer: writes static narinfos.
        uses: notes when paths were last asked for.
        blobs: the files.
        space: in which the files take room.
        sizes: of caches, with files that come in parts.
        max_size: bytes that the files of all caches may take together; None for no limit. A reload changes it.
        quarantine: is told of files that are missing.
        chunking: of files that are kept as chunks.
        listing_renewal: makes listings again that were lost.
        publishing: makes the pushes to caches.
        caches: makes the caches.
    """

    blobs: BlobStore
    _files: OpenFiles
    chunking: Chunking
    listing_renewal: ListingRenewal
    publishing: Publishing
    caches: PushedCaches
    space: Space
    sizes: SizesWithParts
    static_writer: StaticWriter

    def __init__(
        self,
        directory: Path,
        catalog: SqlCatalog,
        store_dir: StoreDir,
        metrics: Metrics,
        *,
        s3: "S3Settings | None" = None,
        hot: "HotSettings | None" = None,
        zstd: Zstd | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._s3 = s3
        self._hot = hot
        self._metrics = metrics
        self._catalog = catalog
        self._store_dir = store_dir
        self._zstd = zstd
        self._counters = PushCounters.on(metrics)
        self.uses = LastUses(catalog.objects, clock)
        self.quarantine = Quarantine(catalog.nars, self._is_here, QuarantineCounters.on(metrics, "pushed"), clock=clock)
        self.max_size: int | None = None
        self._probe: Callable[[], Awaitable[object]] | None = None
        self._resources = AsyncExitStack()

    @classmethod
    def of(cls, config: Config, catalog: SqlCatalog, metrics: Metrics) -> Self:
        """The node of a configuration. It may block.

        Raises:
            ConfigError: the credentials of its bucket cannot be read.
        """
        return cls(
            pushed_directory(config),
            catalog,
            config.store_dir,
            metrics,
            s3=s3_settings(config),
            hot=hot_settings(config),
            zstd=slice_of(Zstd, config.zstd),
        )

    @property
    def checks(self) -> Sequence[Check]:
        """The checks of `/ready`, beside that of the catalog."""
        # Everybody may read the name: it says nothing of the bucket's place.
        return [Check("bucket", self._probe)] if self._probe is not None else []

    @asynccontextmanager
    async def digests(self) -> AsyncIterator[Digests]:
        """The digests of the files, also of those that are made of chunks."""
        async with self._files.digests(1) as digests:
            yield self.chunking.digests(digests)

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            StorageError: the directory cannot be used.
        """
        try:
            opening = open_files(self._directory, self._s3, self._hot, self._metrics)
            self._files = files = await self._resources.enter_async_context(opening)
            self.blobs = files.blobs
            spool = await self._resources.enter_async_context(DiskSpool(self._directory))
            self.space = await files.space(self._directory, spool)
            await running(self.uses.run)(self._resources)
        except BaseException:
            await self._resources.aclose()
            raise
        cores = len(os.sched_getaffinity(0))
        self._threads = Threads(Pool.PUSH, cores)
        self._resources.push_async_callback(self._threads.aclose)
        # Behind the threads, so that it ends before them: what is wanted at the end is still written.
        self.static_writer = await self._resources.enter_async_context(StaticWriter(self._write_later))
        self._watch = RemovalWatch(lambda: self._catalog.database.generation(Topic.REMOVALS))
        listings = LongListings(self.blobs, self._catalog.nars.reserve, self._threads)
        self._receiver = Receiver(
            spool=spool,
            blobs=self.blobs,
            uploads=self._catalog.uploads,
            listings=listings,
            threads=self._threads,
            checked_at_once=cores,
            zstd=self._zstd,
        )
        partial_files = DiskPartialFiles(self._directory)
        self._resources.push_async_callback(partial_files.aclose)
        self._parts = PartUploads(partial_files, self._receiver, self._threads)
        self.sizes = SizesWithParts(self._catalog.objects, partial_files)
        await running(self._parts.sweep)(self._resources)
        self.chunking = Chunking(
            self._catalog.chunks,
            self._catalog.chunk_rebuilding,
            files=files,
            spool=spool,
            threads=self._threads,
            quarantine=self.quarantine,
            now=self.now,
        )
        self._resources.push_async_callback(self.chunking.aclose)
        self.listing_renewal = ListingRenewal(
            objects=self._catalog.objects,
            uploads=self._catalog.uploads,
            listings=listings,
            open_blob=self.open_blob,
            read=read_slice,
            threads=self._threads,
            renew_static=self._write_later,
            now=self.now,
        )
        await running(self.listing_renewal.run)(self._resources)
        past = None
        if self._s3 is not None and files.bucket is not None:
            self._probe = files.bucket.objects.probe
            find_session = self._catalog.sessions.find
            past = await self._resources.enter_async_context(
                past_server(self._s3, files.bucket, self._receiver, find_session)
            )
        self.publishing = Publishing(
            self._catalog,
            store_dir=self._store_dir,
            blobs=self.blobs,
            open_blob=self.open_blob,
            chunking=self.chunking,
            quarantine=self.quarantine,
            receiver=self._receiver,
            texts=TextKeeper(spool=spool, blobs=self.blobs, threads=self._threads),
            listings=listings,
            parts=self._parts,
            sizes=self.sizes,
            pending=None if past is None else past.pending,
            in_parts=None if past is None else past.in_parts,
            static_writer=self.static_writer,
            static_listings=StaticListings(self.blobs, read_slice, self._threads),
            threads=self._threads,
            counters=self._counters,
            max_size=lambda: self.max_size,
            making=Making(self._metrics.board.texts),
        )
        self.caches = PushedCaches(
            self._catalog, store_dir=self._store_dir, publishing=self.publishing, stored=self.stored, now=self.now
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    def now(self) -> Timestamp:
        """The time as the catalog has it."""
        return self._receiver.now()

    def stored(self, row: CacheRow) -> StoredObjects:
        """The source of paths that were pushed to a cache, which also finds the debug information in them."""
        return StoredObjects(
            row.id,
            objects=self._catalog.objects,
            quarantine=self.quarantine,
            uses=self.uses,
            open_blob=self.open_blob if row.settings.redirect else self._open_here,
            open_nar=self.chunking.files.open_nar,
            want_listing=self.listing_renewal.want,
            watch=self._watch,
            open_at_once=self.blobs.open_at_once if isinstance(self.blobs, OpensAtOnce) else None,
        )

    async def _write_later(self, cache: CacheId, hash_part: HashPart) -> None:
        """Have the collector write the static narinfo of a path, and its listing."""
        await self._catalog.repairs.renew_static(cache, [hash_part], now=self.now())

    async def _is_here(self, key: str) -> bool:
        return await self.blobs.metadata(BlobKey(key)) is not None

    async def _open_here(self, key: str) -> Download | None:
        download = await self.open_blob(key)
        return None if download is None else replace(download, redirect=None)

    async def open_blob(self, key: str) -> Download | None:
        """The file under a key, or the file that the recipe under it makes of chunks."""
        if key.startswith(RECIPES):
            return await self.chunking.files.open(key, key.removeprefix(RECIPES))
        blob = await self.blobs.open(BlobKey(key))
        return None if blob is None else blob.download(key)
