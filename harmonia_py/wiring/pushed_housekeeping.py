"""The housekeeping of pushed files by one process, of all machines that share a catalog."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from harmonia_py.catalog.collection import Collecting
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.rooms import Room, Rooms
from harmonia_py.chunks.pack_room import PackRoom
from harmonia_py.database.transaction import Database
from harmonia_py.errors import StorageError
from harmonia_py.runtime.lasting import lasting
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.collecting import catalog_fit, pushed_collector, pushed_housekeeping, static_renewal
from harmonia_py.wiring.deduplicating import deduplication, pushed_packs
from harmonia_py.wiring.pools import running
from harmonia_py.wiring.pushing import PushNode
from harmonia_py.wiring.scrubbing import scrub

_log = logging.getLogger(__name__)

# Within this time another machine takes over.
_LOOK_SECONDS: Final = 5.0


async def look_after(
    node: PushNode,
    keys: CacheKeys,
    *,
    rooms: Rooms | None,
    scrub_period: float | None,
    resources: AsyncExitStack,
) -> None:
    """Look after pushed files, while this process is the one that does; until `resources` close.

    Args:
        node: has the catalog and the files.
        keys: sign the static narinfos.
        rooms: hold all storage to the limits of `[storage]`.
        scrub_period: seconds in which each file is read once more; None for never.
        resources: end the housekeeping when they close.
    """
    collector, metrics = pushed_collector(node, keys), node.metrics
    collecting, packs = catalog_fit(node).collecting, pushed_packs(node, metrics)

    async def check() -> None:
        await scrub(
            node.chunking.digests,
            node.catalog,
            node.quarantine.note,
            metrics,
            name="pushed",
            period=scrub_period,
            make_listing=node.listing_renewal.make,
        )

    works = [
        pushed_housekeeping(node, keys, metrics, collector=collector, collecting=collecting).run,
        static_renewal(node, keys).run,
        deduplication(node, collector.scopes, metrics, packs=packs, collecting=collecting).run,
        check,
    ]
    if rooms is not None:
        resources.callback(rooms.add(_room(node, collector, packs, collecting)))
    await running(partial(keep_house, node.catalog.database, works))(resources)


def _room(node: PushNode, collector: Collector, packs: PackRoom, collecting: Collecting) -> Room:
    return Room(
        collector=collector,
        scopes=collector.scopes,
        sizes=node.sizes,
        uses=node.uses,
        collecting=collecting,
        free_bytes=node.space.free_bytes,
        device=node.space.device,
        packs=packs,
        wanted=node.catalog.room_wanted,
    )


async def keep_house(database: Database, works: Sequence[Callable[[], Coroutine[object, None, None]]]) -> None:
    """Run all of `works`, none of which ends, while this process is the elected one; until cancelled."""
    while True:
        try:
            async with database.housekeeping() as is_ours:
                if is_ours:
                    async with asyncio.TaskGroup() as group:
                        for work in works:
                            group.create_task(lasting(work))
        except StorageError as error:
            _log.warning("another machine may look after what is kept from now on: %s", error)
        await asyncio.sleep(_LOOK_SECONDS)
