"""Files in a directory or in a bucket: the one place that chooses between them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from harmonia_py.catalog.rooms import BUCKET, no_end_of_room
from harmonia_py.contents.blobs import Blob, BlobKey, BlobStore
from harmonia_py.contents.fsck import Digests
from harmonia_py.metrics.board import Metrics
from harmonia_py.storage.digests import DiskDigests
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.spool import DiskSpool

if TYPE_CHECKING:  # a server that keeps files in directories loads nothing of S3
    from harmonia_py.storage.s3.blobs import S3Blobs
    from harmonia_py.storage.s3.hot import HotBlobs, HotSettings
    from harmonia_py.storage.s3.owner import Identity, Owner
    from harmonia_py.storage.s3.settings import S3Settings


class OpenFiles(Struct, frozen=True, kw_only=True, eq=False):
    """The files of a directory or a bucket, opened.

    Attributes:
        blobs: the files.
        digests: opens the `Digests` of the files, given how many are read at once.
        open_ranges: opens a file of which only the given ranges are read, which are in order and apart.
        bucket: that has the files, whose opened ranges are in memory; None: a directory, whose files are open files.
    """

    blobs: BlobStore
    digests: Callable[[int], AbstractAsyncContextManager[Digests]]
    open_ranges: Callable[[BlobKey, Sequence[tuple[int, int]]], Awaitable[Blob | None]]
    bucket: "S3Blobs | None"

    @property
    def owner(self) -> "Owner | None":
        """Tells whether the bucket belongs to the catalog of these files; None for a directory."""
        return None if self.bucket is None else self.bucket.objects.owner

    async def space(self, directory: Path, spool: DiskSpool) -> "Space":
        """The space in which the files take room.

        Args:
            directory: of the files, if they are in no bucket.
            spool: on the same file system.
        """
        if self.bucket is not None:
            # Deleting from a bucket frees no file system.
            return Space(no_end_of_room, BUCKET)
        return Space(spool.free_bytes, (await asyncio.to_thread(directory.stat)).st_dev)


class Space(Struct, frozen=True, eq=False):
    """A file system, or a bucket.

    Attributes:
        free_bytes: asks how much room it has.
        device: the number of the file system, or `BUCKET`.
    """

    free_bytes: Callable[[], Awaitable[int]]
    device: int


@asynccontextmanager
async def open_files(
    directory: Path,
    s3: "S3Settings | None",
    hot: "HotSettings | None" = None,
    metrics: Metrics | None = None,
    identity: "Identity | None" = None,
) -> AsyncIterator[OpenFiles]:
    """Open the files of a directory or a bucket.

    Args:
        directory: of files that are not in a bucket.
        s3: the bucket; None for the directory.
        hot: the copies in front of the bucket; None for none.
        metrics: the counters of these.
        identity: of the catalog that the bucket's prefix belongs to; None for a prefix that no other one can have.

    Raises:
        StorageError: the directory cannot be used, or the bucket cannot be opened.
    """
    if s3 is None:
        async with DiskBlobs(directory) as files:
            yield OpenFiles(
                blobs=files,
                digests=lambda threads: DiskDigests(directory, threads=threads),
                open_ranges=partial(_open_whole, files),
                bucket=None,
            )
        return

    from harmonia_py.storage.s3.blobs import S3Blobs  # noqa: PLC0415
    from harmonia_py.storage.s3.digests import S3Digests  # noqa: PLC0415
    from harmonia_py.storage.s3.ranges import S3Ranges  # noqa: PLC0415

    bucket = S3Blobs(s3, identity)
    async with bucket if hot is None else _with_copies(bucket, hot, metrics) as blobs:
        yield OpenFiles(
            blobs=blobs,
            digests=lambda threads: S3Digests(s3, threads=threads),
            open_ranges=S3Ranges(s3).open,
            bucket=bucket,
        )


def _with_copies(bucket: "S3Blobs", hot: "HotSettings", metrics: Metrics | None) -> "HotBlobs":
    from harmonia_py.storage.s3.hot import HotBlobs  # noqa: PLC0415
    from harmonia_py.storage.s3.hot_metrics import HotCounters  # noqa: PLC0415

    return HotBlobs(bucket, hot, None if metrics is None else HotCounters.on(metrics))


async def _open_whole(blobs: BlobStore, key: BlobKey, _: Sequence[tuple[int, int]]) -> Blob | None:
    return await blobs.open(key)
