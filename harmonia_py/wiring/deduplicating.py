"""The jobs that make chunks, of what is pushed and of what a mirror keeps, and the room that chunks take."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from harmonia_py.catalog.caches import MIRROR, CacheSettings, time_by
from harmonia_py.catalog.collection import Collecting, Scope
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.chunks.deduplication import Deduplication, DeduplicationCounters
from harmonia_py.chunks.pack_collector import LIMITED_USED_SHARE, USED_SHARE, PackCollector
from harmonia_py.chunks.pack_room import PackRoom
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import Topic
from harmonia_py.metrics.board import Metrics
from harmonia_py.wiring.chunking import Chunking, chunk_maker

if TYPE_CHECKING:  # a server that is not pushed to loads nothing of pushes
    from harmonia_py.wiring.pushing import PushNode

_PUSHED: Final = "pushed"
# A reader that has looked up a place opens the pack at once, and asks again where that has gone.
_MIRROR_GRACE_SECONDS: Final = 10


def pushed_packs(node: "PushNode", metrics: Metrics) -> PackRoom:
    """The room that chunks of pushed files take."""
    collector = node.chunking.pack_collector(
        used_share=lambda: USED_SHARE if node.max_size is None else LIMITED_USED_SHARE
    )
    return _packs(node.catalog, metrics, _PUSHED, collector)


def mirror_packs(
    catalog: SqlCatalog, chunking: Chunking, metrics: Metrics, name: str, *, clock: Callable[[], float] = time.time
) -> PackRoom:
    """The room that chunks take in a directory of a mirror, which has this name on `/metrics`."""
    collector = chunking.pack_collector(
        used_share=lambda: LIMITED_USED_SHARE, grace_seconds=_MIRROR_GRACE_SECONDS, now=lambda: time_by(clock)
    )
    return _packs(catalog, metrics, name, collector)


def _packs(catalog: SqlCatalog, metrics: Metrics, name: str, collector: PackCollector) -> PackRoom:
    return PackRoom(catalog.chunk_work, collector, errors=lambda: DeduplicationCounters.on(metrics, name).errors)


def deduplication(
    node: "PushNode",
    scopes: Callable[[], Awaitable[Sequence[Scope]]],
    metrics: Metrics,
    *,
    packs: PackRoom | None = None,
    collecting: Collecting | None = None,
    clock: Callable[[], float] = time.time,
) -> Deduplication:
    """The job that makes chunks of files and looks after packs; one process of all that share the catalog runs it.

    Args:
        node: has the catalog and the files.
        scopes: gives the caches.
        metrics: the counters of this process.
        packs: of the files; made here when None.
        collecting: makes this process the one that collects; that of the catalog when None.
        clock: seconds since the epoch.
    """
    catalog = node.catalog
    generation = catalog.database.watch(Topic.ACCESS)
    return Deduplication(
        catalog.chunks,
        catalog.chunk_work,
        scopes,
        make_chunks=chunk_maker(node.chunking, node.open_blob),
        collect_packs=(packs or pushed_packs(node, metrics)).run,
        uses=node.uses,
        collecting=collecting or catalog.database.collecting,
        counters=DeduplicationCounters.on(metrics, _PUSHED),
        state=lambda: generation[0],
        clock=clock,
    )


def mirror_deduplication(
    catalog: SqlCatalog,
    chunking: Chunking,
    packs: PackRoom,
    *,
    uses: LastUses,
    settings: CacheSettings,
    metrics: Metrics,
    name: str,
    clock: Callable[[], float] = time.time,
) -> Deduplication:
    """As `deduplication`, of the files of upstreams in a directory.

    Args:
        catalog: of the directory.
        chunking: of its files.
        packs: in the directory.
        uses: last uses that this process has not written to the catalog yet.
        settings: say what becomes chunks.
        metrics: the counters of this process.
        name: of the directory, there.
        clock: seconds since the epoch.
    """

    async def scopes() -> Sequence[Scope]:
        return [Scope(cache=MIRROR, settings=settings, deleted=False)]

    return Deduplication(
        catalog.chunks,
        catalog.chunk_work,
        scopes,
        make_chunks=chunk_maker(chunking, chunking.open_whole),
        collect_packs=packs.run,
        uses=uses,
        collecting=catalog.database.collecting,
        counters=DeduplicationCounters.on(metrics, name),
        state=lambda: None,
        clock=clock,
    )
