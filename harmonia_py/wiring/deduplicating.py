"""The job that makes chunks of pushed files, put together."""

import time
from collections.abc import Awaitable, Callable, Sequence

from harmonia_py.catalog.collection import Collecting, Scope
from harmonia_py.chunks.deduplication import Deduplication, DeduplicationCounters
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import Topic
from harmonia_py.metrics.board import Metrics
from harmonia_py.wiring.chunking import chunk_maker
from harmonia_py.wiring.pushing import PushNode


def deduplication(
    catalog: SqlCatalog,
    node: PushNode,
    scopes: Callable[[], Awaitable[Sequence[Scope]]],
    metrics: Metrics,
    *,
    collecting: Collecting | None = None,
    clock: Callable[[], float] = time.time,
) -> Deduplication:
    """The job that makes chunks of files and looks after packs; one process of all that share the catalog runs it.

    Args:
        catalog: of the caches.
        node: has the files.
        scopes: gives the caches.
        metrics: the counters of this process.
        collecting: makes this process the one that collects; that of the catalog when None.
        clock: seconds since the epoch.
    """
    generation = catalog.database.watch(Topic.ACCESS)
    return Deduplication(
        catalog.chunks,
        catalog.chunk_work,
        scopes,
        make_chunks=chunk_maker(node.chunking, node.open_blob),
        collect_packs=node.chunking.pack_collector().run,
        uses=node.uses,
        collecting=collecting or catalog.database.collecting,
        counters=DeduplicationCounters.on(metrics, "pushed"),
        state=lambda: generation[0],
        clock=clock,
    )
