"""The job that makes chunks of pushed files, put together."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from harmonia_py.catalog.collection import Collecting, Scope
from harmonia_py.chunks.deduplication import Deduplication, DeduplicationCounters
from harmonia_py.chunks.pack_collector import GRACE_SECONDS, LIMITED_USED_SHARE, USED_SHARE
from harmonia_py.chunks.pack_room import PackRoom
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import Topic
from harmonia_py.metrics.board import Counter, Metrics
from harmonia_py.wiring.chunking import chunk_maker
from harmonia_py.wiring.pushing import PushNode

_NAME: Final = "pushed"


def pushed_packs(catalog: SqlCatalog, node: PushNode, metrics: Metrics) -> PackRoom:
    """The packs of `catalog`, whose files `node` has."""

    def used_share() -> float:
        return USED_SHARE if node.max_size is None else LIMITED_USED_SHARE

    collector = node.chunking.pack_collector(used_share=used_share)

    def errors() -> Counter:
        return DeduplicationCounters.on(metrics, _NAME).errors

    return PackRoom(catalog.chunk_work, collector, grace_seconds=GRACE_SECONDS, now=node.now, errors=errors)


def deduplication(
    catalog: SqlCatalog,
    node: PushNode,
    scopes: Callable[[], Awaitable[Sequence[Scope]]],
    metrics: Metrics,
    *,
    packs: PackRoom | None = None,
    collecting: Collecting | None = None,
    clock: Callable[[], float] = time.time,
) -> Deduplication:
    """The job that makes chunks of files and looks after packs; one process of all that share the catalog runs it.

    Args:
        catalog: of the caches.
        node: has the files.
        scopes: gives the caches.
        metrics: the counters of this process.
        packs: of the files; made here when None.
        collecting: makes this process the one that collects; that of the catalog when None.
        clock: seconds since the epoch.
    """
    generation = catalog.database.watch(Topic.ACCESS)
    return Deduplication(
        catalog.chunks,
        catalog.chunk_work,
        scopes,
        make_chunks=chunk_maker(node.chunking, node.open_blob),
        collect_packs=(packs or pushed_packs(catalog, node, metrics)).run,
        uses=node.uses,
        collecting=collecting or catalog.database.collecting,
        counters=DeduplicationCounters.on(metrics, _NAME),
        state=lambda: generation[0],
        clock=clock,
    )
