"""What a mirror keeps as chunks: the job that makes them, and the room that they take, put together."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import MIRROR, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Scope
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.chunks.deduplication import Deduplication, DeduplicationCounters
from harmonia_py.chunks.pack_collector import LIMITED_USED_SHARE
from harmonia_py.chunks.pack_room import PackRoom
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.metrics.board import Counter, Metrics
from harmonia_py.wiring.chunking import Chunking, chunk_maker

# A reader that has looked up a place opens the pack at once, and asks again where that has gone.
_GRACE_SECONDS: Final = 10


def pack_room(
    catalog: SqlCatalog, chunking: Chunking, metrics: Metrics, name: str, *, clock: Callable[[], float] = time.time
) -> PackRoom:
    """The room that chunks take in a directory.

    Args:
        catalog: of the directory.
        chunking: of its files.
        metrics: the counters of this process.
        name: of the directory, there.
        clock: seconds since the epoch.
    """

    def now() -> Timestamp:
        return Timestamp(int(clock()))

    collector = chunking.pack_collector(used_share=lambda: LIMITED_USED_SHARE, grace_seconds=_GRACE_SECONDS, now=now)

    def errors() -> Counter:
        return DeduplicationCounters.on(metrics, name).errors

    return PackRoom(catalog.chunk_work, collector, grace_seconds=_GRACE_SECONDS, now=now, errors=errors)


class MirrorChunks(Struct, frozen=True):
    """What becomes chunks of what a mirror keeps.

    Attributes:
        deduplicate: "chunks" for files that were not asked for lately, "files" for none.
        deduplicate_after: how long, in seconds.
    """

    deduplicate: str = "files"
    deduplicate_after: int = 0


NO_CHUNKS: Final = MirrorChunks()


def mirror_deduplication(
    catalog: SqlCatalog,
    chunking: Chunking,
    packs: PackRoom,
    *,
    uses: LastUses,
    wanted: MirrorChunks,
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
        wanted: says what becomes chunks.
        metrics: the counters of this process.
        name: of the directory, there.
        clock: seconds since the epoch.
    """
    settings = CacheSettings(deduplicate=wanted.deduplicate, deduplicate_after=wanted.deduplicate_after)

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
