"""The scrub of one storage, put together."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from harmonia_py.catalog.document_scrub import DiscardBlob, DocumentScrub, MakeListing, leave, make_none
from harmonia_py.catalog.scrub import NoteFault, Scrub, ScrubCounters
from harmonia_py.contents.fsck import Digests
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.metrics.board import Metrics


async def scrub(
    digests: Callable[[], AbstractAsyncContextManager[Digests]],
    catalog: SqlCatalog,
    note_fault: NoteFault,
    metrics: Metrics,
    *,
    name: str,
    period: float | None,
    discard: DiscardBlob = leave,
    make_listing: MakeListing = make_none,
) -> None:
    """Read the files of a storage again and again, until cancelled; one process of all that share the catalog does.

    Args:
        digests: opens what reads the files.
        catalog: knows them.
        note_fault: is told of each file that is wrong.
        metrics: the counters of this process.
        name: of the storage, there.
        period: seconds in which each file is read once; None for never.
        discard: is given the key of a lost document, where a file is served without a row as well.
        make_listing: makes a lost listing again, where that is possible.
    """
    async with digests() as opened, asyncio.TaskGroup() as group:
        counters = ScrubCounters.on(metrics, name)
        group.create_task(Scrub(catalog.file_checks, opened, note_fault, counters=counters, period=period).run())
        if period is not None:
            checks = catalog.documents
            documents = DocumentScrub(
                checks, opened, counters=counters, period=period, discard=discard, make_listing=make_listing
            )
            group.create_task(documents.run())
