"""A directory of kept files: its spool and blobs, and their catalog.

With the blobs in a bucket, the directory has the spool and the catalog.
"""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import time_by
from harmonia_py.catalog.kept import Kept
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.storage import Storage
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import StorageError
from harmonia_py.metrics.board import Metrics
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.spool import DiskSpool
from harmonia_py.wiring.bucket import BucketPlace, beside
from harmonia_py.wiring.catalog import OWN_DIRECTORY, hand_over
from harmonia_py.wiring.chunking import Chunking
from harmonia_py.wiring.files import OpenFiles, Space, open_files
from harmonia_py.wiring.pools import Selection, entered, running
from harmonia_py.wiring.replaceable_housekeeping import (
    DirectoryHousekeeping,
    Upkeep,
    kept_ports,
    name_of,
    quarantine_of,
)

_log = logging.getLogger(__name__)

# The catalog's place in a directory; keys of blobs do not begin with a dot.
CATALOG: Final = Path(OWN_DIRECTORY, "catalog.sqlite")


class KeptDirectory(Struct, frozen=True, eq=False):
    """The intake of a directory, and the facts of its files.

    Attributes:
        intake: takes files in and serves them.
        kept: knows them, by the catalog.
        chunking: makes files of chunks; None where no catalog says of which.
    """

    intake: Intake
    kept: Kept
    chunking: Chunking | None = None


async def open_kept_directory(
    selection: Selection,
    key: str,
    directory: Path,
    *,
    place: BucketPlace | None = None,
    metrics: Metrics,
    upkeep: Upkeep | None,
) -> KeptDirectory:
    """The files kept in `directory`; if that cannot be used, nothing is kept.

    Args:
        selection: has the open things.
        key: the setting that names the directory.
        directory: made if it is not there.
        place: the bucket that its files are kept in; None for the directory itself.
        metrics: the counters of this process.
        upkeep: how this process, of all that share the directory, makes room, deletes, and checks; None: another does.
    """
    directory = beside(directory, place)
    try:
        spool = await selection.get(f"spool of {key}", (directory,), entered(lambda: DiskSpool(directory)))
        files, space = await selection.get(
            f"blobs of {key}", (directory, spool, place), partial(_open_files, directory, spool, place, metrics)
        )
    except StorageError as error:
        if upkeep is not None:  # one worker of several logs it
            _log.warning("%s: %s; each download is made anew", key, error)
        return await selection.get(key, (), _nowhere)
    try:
        catalog = await selection.get(f"catalog of {key}", (directory,), partial(_open_catalog, directory))
    except StorageError as error:
        if upkeep is not None:
            _log.warning("%s: %s; what is kept is served, and nothing is known of it", key, error)
        catalog = None
    made_of = (spool, files, catalog)
    opening = partial(_open, spool, files, catalog, name=name_of(key), metrics=metrics)
    kept_directory = await selection.get(key, made_of, opening, idle=lambda kept: kept.intake.idle())
    if catalog is not None and kept_directory.chunking is not None and upkeep is not None:
        works = DirectoryHousekeeping(key, files, space, catalog.ports, catalog.uses, metrics, kept_directory.chunking)
        await works.select(selection, upkeep)
    return kept_directory


async def _open_files(
    directory: Path, spool: DiskSpool, place: BucketPlace | None, metrics: Metrics, resources: AsyncExitStack
) -> tuple[OpenFiles, Space]:
    s3 = hot = None
    if place is not None:
        from harmonia_py.storage.s3.own_prefix import own_prefix  # noqa: PLC0415  # for a bucket alone

        s3, hot = await asyncio.to_thread(own_prefix, directory, place.s3), place.hot
    files = await resources.enter_async_context(open_files(directory, s3, hot, metrics))
    return files, await files.space(directory, spool)


class _Catalog(Struct, frozen=True, eq=False):
    """A catalog, with the last uses that this process has not written to it yet."""

    ports: SqlCatalog
    uses: LastUses


async def _open_catalog(directory: Path, resources: AsyncExitStack) -> _Catalog:
    # Here, so that a server that keeps nothing loads no database.
    from harmonia_py.database.sqlite import SqliteDatabase  # noqa: PLC0415

    file = directory / CATALOG
    catalog = SqlCatalog(await SqliteDatabase.open(file))
    await asyncio.to_thread(hand_over, file)
    resources.push_async_callback(catalog.aclose)
    uses = LastUses(catalog.objects)
    await running(uses.run)(resources)
    return _Catalog(catalog, uses)


async def _open(
    spool: DiskSpool,
    files: OpenFiles,
    catalog: _Catalog | None,
    resources: AsyncExitStack,
    *,
    name: str,
    metrics: Metrics,
) -> KeptDirectory:
    storage = Storage(spool, files.blobs)
    if catalog is None:
        return await _made_of(Kept(storage, None), storage, None, resources)
    threads = Threads(Pool.RECIPE)
    resources.push_async_callback(threads.aclose)
    chunking = Chunking(
        catalog.ports.chunks,
        catalog.ports.packs,
        files=files,
        spool=spool,
        threads=threads,
        quarantine=quarantine_of(files.blobs, catalog.ports, metrics, name),
        now=lambda: time_by(time.time),
    )
    resources.push_async_callback(chunking.aclose)
    kept = Kept(storage, kept_ports(catalog.ports, catalog.uses), chunking.files.open)
    return await _made_of(kept, storage, chunking, resources)


async def _made_of(kept: Kept, storage: Storage, chunking: Chunking | None, resources: AsyncExitStack) -> KeptDirectory:
    await running(kept.owed.run)(resources)
    return KeptDirectory(await resources.enter_async_context(Intake(storage, kept.reserve)), kept, chunking)


async def _nowhere(resources: AsyncExitStack) -> KeptDirectory:
    storage = Storage()
    return await _made_of(Kept(storage, None), storage, None, resources)
