"""The things that a process has open for caches that are pushed to: a directory or a bucket, and threads for all."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from harmonia_py.cache.checks import Check
from harmonia_py.cache.source import Download
from harmonia_py.catalog.caches import CacheId, CacheRow, Timestamp
from harmonia_py.catalog.changes import Changes
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.catalog.quarantine import Quarantine, QuarantineCounters
from harmonia_py.catalog.stored import StoredObjects
from harmonia_py.config.settings import Config
from harmonia_py.contents.blobs import BlobKey, BlobStore, OpensAtOnce
from harmonia_py.contents.encoders import Zstd
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import Topic
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.push.listing_renewal import ListingRenewal
from harmonia_py.push.listings import LongListings
from harmonia_py.push.parts import PartUploads, SizesWithParts
from harmonia_py.push.past_server.parts import MultipartPushes
from harmonia_py.push.past_server.single import PendingUploads
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.receiving import Receiver
from harmonia_py.push.static_writer import StaticWriter
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.partial_files import DiskPartialFiles
from harmonia_py.storage.spool import DiskSpool
from harmonia_py.wiring.bucket import hot_settings, s3_settings
from harmonia_py.wiring.catalog import pushed_directory
from harmonia_py.wiring.chunking import Chunking
from harmonia_py.wiring.files import OpenFiles, Space, open_files
from harmonia_py.wiring.past_server import open_past_server
from harmonia_py.wiring.pools import running
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
        clock: of last uses and of the quarantine, in seconds since the epoch.

    Attributes:
        catalog, store_dir, metrics: as given.
        uses: notes when paths were last asked for.
        quarantine: is told of files that are missing.
        max_size: bytes that the files of all caches may take together; None for no limit. A reload changes it.
        files: the files, in the directory or the bucket.
        spool: for files that are arriving.
        space: in which the files take room.
        threads: check and read what is pushed.
        static_writer: writes static narinfos.
        receiver: takes files in.
        listings: keeps those of NARs that are long.
        parts: files that come in parts.
        sizes: of caches, with these.
        chunking: of files that are kept as chunks.
        ports: what pushes to all caches need.
        listing_renewal: makes listings again that were lost.
        pending: files that clients send to the bucket; None where they send all to this server.
        in_parts: those of them that come in parts; None where they cannot.
        caches: makes the caches, and the pushes to them.
    """

    files: OpenFiles
    spool: DiskSpool
    space: Space
    threads: Threads
    static_writer: StaticWriter
    receiver: Receiver
    listings: LongListings
    parts: PartUploads
    sizes: SizesWithParts
    chunking: Chunking
    ports: PushPorts
    listing_renewal: ListingRenewal
    pending: PendingUploads | None
    in_parts: MultipartPushes | None
    caches: PushedCaches

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
        self.catalog = catalog
        self.store_dir = store_dir
        self.metrics = metrics
        self.uses = LastUses(catalog.objects, clock)
        self.quarantine = Quarantine(catalog.nars, self._is_here, QuarantineCounters.on(metrics, "pushed"), clock=clock)
        self.max_size: int | None = None
        self._directory = directory
        self._s3 = s3
        self._hot = hot
        self._zstd = zstd
        # A pass that makes chunks of files removes tens of files a second.
        self._removals = Changes(lambda: catalog.database.generation(Topic.REMOVALS), rest=1.0)
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
    def blobs(self) -> BlobStore:
        """The files."""
        return self.files.blobs

    @property
    def checks(self) -> Sequence[Check]:
        """The checks of `/ready`, beside that of the catalog."""
        bucket = self.files.bucket
        # Everybody may read the name: it says nothing of the bucket's place.
        return [] if bucket is None else [Check("bucket", bucket.objects.probe)]

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            StorageError: the directory cannot be used.
        """
        async with AsyncExitStack() as resources:
            await self._open(resources)
            self._resources = resources.pop_all()
        self.caches = PushedCaches(self)
        return self

    async def _open(self, resources: AsyncExitStack) -> None:
        """Open the things, each before those that are made of it; they end in the opposite order."""
        catalog, cores = self.catalog, len(os.sched_getaffinity(0))
        files = open_files(self._directory, self._s3, self._hot, self.metrics, catalog.identity)
        self.files = await resources.enter_async_context(files)
        self.spool = await resources.enter_async_context(DiskSpool(self._directory))
        self.space = await self.files.space(self._directory, self.spool)
        await running(self.uses.run)(resources)
        self.threads = Threads(Pool.PUSH, cores)
        resources.push_async_callback(self.threads.aclose)
        # It reads listings with the threads also when it ends.
        self.static_writer = await resources.enter_async_context(StaticWriter(self._write_later))
        self.listings = LongListings(self.blobs, catalog.nars.reserve, self.threads)
        self.receiver = Receiver(
            spool=self.spool,
            blobs=self.blobs,
            uploads=catalog.uploads,
            listings=self.listings,
            threads=self.threads,
            checked_at_once=cores,
            zstd=self._zstd,
        )
        partial_files = DiskPartialFiles(self._directory)
        resources.push_async_callback(partial_files.aclose)
        self.parts = PartUploads(partial_files, self.receiver, self.threads)
        self.sizes = SizesWithParts(catalog.objects, partial_files)
        await running(self.parts.sweep)(resources)
        self.chunking = Chunking(
            catalog.chunks,
            catalog.packs,
            files=self.files,
            spool=self.spool,
            threads=self.threads,
            quarantine=self.quarantine,
            now=self.now,
        )
        resources.push_async_callback(self.chunking.aclose)
        self.ports = PushPorts(
            objects=catalog.objects,
            nars=catalog.nars,
            uploads=catalog.uploads,
            adoption=catalog.uploads,
            arrivals=catalog.arrivals,
            awaiting=catalog.awaiting,
            evidence=catalog.evidence,
            sessions=catalog.sessions,
            bases=catalog.bases,
            audit=catalog.audit,
            room_wanted=catalog.room_wanted,
            quarantine=self.quarantine,
            blobs=self.blobs,
            open_blob=self.open_blob,
            threads=self.threads,
            store_dir=self.store_dir,
            now=self.now,
        )
        self.listing_renewal = ListingRenewal(self.ports, self.listings, self._write_later)
        await running(self.listing_renewal.run)(resources)
        self.pending = self.in_parts = None
        if self._s3 is not None and self.files.bucket is not None:
            opening = open_past_server(self._s3, self.files.bucket, catalog.sessions.find, self.now, resources)
            self.pending, self.in_parts = await opening

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    def now(self) -> Timestamp:
        """The time as the catalog has it."""
        return self.receiver.now()

    def stored(self, row: CacheRow) -> StoredObjects:
        """The source of paths that were pushed to a cache, which also finds the debug information in them."""
        return StoredObjects(
            row.id,
            objects=self.catalog.objects,
            quarantine=self.quarantine,
            uses=self.uses,
            open_blob=self.open_blob if row.settings.redirect else self._open_here,
            open_nar=self.chunking.files.open_nar,
            want_listing=self.listing_renewal.want,
            removals=self._removals,
            open_at_once=self.blobs.open_at_once if isinstance(self.blobs, OpensAtOnce) else None,
        )

    async def _write_later(self, cache: CacheId, hash_part: HashPart) -> None:
        """Have the collector write the static narinfo of a path, and its listing."""
        await self.catalog.repairs.renew_static(cache, [hash_part], now=self.now())

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
