"""Every storage that a configuration describes, with its catalog, opened for a command beside the server."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp, time_by
from harmonia_py.catalog.fsck_findings import FsckPorts
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.quarantine import Quarantine
from harmonia_py.chunks.digests import ChunkedDigests
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.config.settings import Config
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.fsck import Digests
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.metrics.board import Metrics
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.wiring.bucket import beside, bucket_place, s3_settings
from harmonia_py.wiring.catalog import catalog_file, hand_over, open_catalog, pushed_directory
from harmonia_py.wiring.chunking import chunked_files
from harmonia_py.wiring.files import open_files
from harmonia_py.wiring.kept_directory import CATALOG
from harmonia_py.wiring.replaceable_housekeeping import isolating

if TYPE_CHECKING:
    from harmonia_py.storage.s3.owner import Owner
    from harmonia_py.storage.s3.settings import S3Settings

PUSHED = "pushed"


class OpenStorage(Struct, frozen=True):
    """A storage.

    Attributes:
        name: `pushed`, or the table of the setting that names its directory.
        directory: of its files.
        catalog: what is kept there.
        blobs: the files.
        owner: tells whether their bucket belongs to the catalog; None for a directory.
        digests: reads them once more.
        isolate: does what has to be done about a lost file, and says it.
    """

    name: str
    directory: Path
    catalog: SqlCatalog
    blobs: BlobStore
    owner: "Owner | None"
    digests: Digests
    isolate: Callable[[NarFile, str], Awaitable[str]]

    @property
    def is_pushed(self) -> bool:
        """Whether clients pushed what is there; otherwise its files are replaceable: compressed here, or mirrored."""
        return self.name == PUSHED

    def now(self) -> Timestamp:
        """The time as a catalog has it."""
        return time_by(time.time)

    @property
    def fsck_ports(self) -> FsckPorts:
        """The ports that `fsck` asks."""
        catalog = self.catalog
        return FsckPorts(
            caches=catalog.caches,
            objects=catalog.objects,
            index=catalog.objects,
            checks=catalog.file_checks,
            documents=catalog.documents,
            repairs=catalog.repairs,
        )


class StoragePlace(Struct, frozen=True):
    """The place of a storage.

    Attributes:
        name: as in `OpenStorage`.
        directory: of its files, or of what is beside those that are in a bucket.
        catalog: the file that its catalog is in; None where that is in a database.
        bucket: which has its files; None for the directory.
        has_part: whether these are in a part of the bucket that is the directory's alone.
    """

    name: str
    directory: Path
    catalog: Path | None
    bucket: "S3Settings | None"
    has_part: bool = False

    def has_catalog(self) -> bool:
        """Whether there is a catalog; that in a database is made when it is opened."""
        return self.catalog is None or self.catalog.exists()

    def has_files(self) -> bool:
        """Whether there may be files; those in a bucket are there without any directory of this machine."""
        return self.directory.exists() or (self.bucket is not None and not self.has_part)


def storages_of(config: Config) -> Sequence[StoragePlace]:
    """The storages of a configuration. It may block.

    Raises:
        ConfigError: the credentials of its bucket cannot be read, or what speaks to it is not installed.
    """
    pushed, file = pushed_directory(config), catalog_file(config) if config.database.url is None else None
    found = [StoragePlace(PUSHED, pushed, file, s3_settings(config))]
    place = bucket_place(config)
    bucket = None if place is None else place.s3
    for name, text in (("cache", config.cache.directory), ("mirror", config.mirror.directory)):
        if text is None:
            continue
        directory = beside(Path(text), place)
        if directory not in [other.directory for other in found]:
            found.append(StoragePlace(name, directory, directory / CATALOG, bucket, has_part=True))
    return found


@asynccontextmanager
async def open_storage(config: Config, place: StoragePlace) -> AsyncIterator[OpenStorage]:
    """Open one; its catalog is made where there is none.

    Raises:
        StorageError: it cannot be opened.
    """
    async with AsyncExitStack() as stack:
        file = place.catalog
        catalog = await open_catalog(config) if file is None else SqlCatalog(await SqliteDatabase.open(file))
        stack.push_async_callback(catalog.aclose)
        if file is not None:
            await asyncio.to_thread(hand_over, file)
        identity = None if place.has_part else catalog.identity
        files = await stack.enter_async_context(open_files(place.directory, await _bucket_of(place), identity=identity))
        threads = Threads(Pool.CHUNK)
        stack.push_async_callback(threads.aclose)
        whole = await stack.enter_async_context(files.digests(len(os.sched_getaffinity(0))))
        digests = ChunkedDigests(whole, chunked_files(catalog.chunks, files, threads, _leave), threads)
        isolate = _isolate(place.name, catalog, files.blobs)
        yield OpenStorage(place.name, place.directory, catalog, files.blobs, files.owner, digests, isolate)


async def _bucket_of(place: StoragePlace) -> "S3Settings | None":
    if place.bucket is None or not place.has_part:
        return place.bucket
    from harmonia_py.storage.s3.own_prefix import own_prefix  # noqa: PLC0415  # for a bucket alone

    return await asyncio.to_thread(own_prefix, place.directory, place.bucket)


async def _leave(_chunk: ChunkHash, _reason: str, _with_pack: bool) -> None:  # noqa: FBT001  # a port
    """Do nothing about a lost chunk: the check that reads its file reports it, and quarantines the file."""


def _isolate(name: str, catalog: SqlCatalog, blobs: BlobStore) -> Callable[[NarFile, str], Awaitable[str]]:
    async def is_here(key: str) -> bool:
        return await blobs.metadata(BlobKey(key)) is not None

    note: Callable[[NarFile, str], Awaitable[None]]
    if name == PUSHED:
        note = Quarantine(catalog.nars, is_here).note
        done = "its paths are hidden until it is pushed again"
    else:
        note = isolating(blobs, catalog, Metrics.alone(), name)
        done = "it is removed, and made or fetched again when it is asked for"

    async def isolate(file: NarFile, fault: str) -> str:
        await note(file, fault)
        return done

    return isolate
