"""The housekeeping of the caches that are pushed to, put together."""

import time
from collections.abc import Callable

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.arrivals import LeftBehind
from harmonia_py.catalog.cache_gauges import CacheGauges
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.collection import Collecting
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.fit import CatalogFit
from harmonia_py.catalog.pushed_housekeeping import CollectionCounters, PushedHousekeeping
from harmonia_py.catalog.strays import Strays, discard_strays, knows_some, unknown_path
from harmonia_py.database.transaction import Topic
from harmonia_py.metrics.board import Metrics
from harmonia_py.push.static_renewal import StaticRenewal
from harmonia_py.push.static_side import Deleter, StaticSide, StaticSideOf
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.pushing import PushNode


def pushed_collector(node: PushNode, keys: CacheKeys) -> Collector:
    """The collector of all caches, whose files `node` has; `keys` sign the static narinfos."""
    catalog = node.catalog
    delete = Deleter(node.blobs, _side_of(node, keys), catalog.objects.paths).delete
    return Collector(catalog.collection, catalog.garbage, delete, sizes=node.sizes, wanted=catalog.room_wanted)


def pushed_housekeeping(
    node: PushNode,
    keys: CacheKeys,
    metrics: Metrics,
    *,
    collector: Collector | None = None,
    collecting: Collecting | None = None,
    clock: Callable[[], float] = time.time,
    seconds: float = 60.0,
) -> PushedHousekeeping:
    """The housekeeping of all caches, whose files `node` has; one process of all that share them runs it.

    Args:
        node: has the catalog and the files.
        keys: sign the static narinfos.
        collector: of the caches; made here when None.
        collecting: makes this process the one that collects; that of the catalog when None.
        metrics: the counters of this process.
        clock: seconds since the epoch.
        seconds: between two passes.
    """
    catalog = node.catalog
    return PushedHousekeeping(
        collector or pushed_collector(node, keys),
        catalog.objects,
        catalog.collection,
        catalog.audit,
        node.uses,
        left_behind=LeftBehind(catalog.arrivals, node.blobs),
        passes=catalog.passes,
        collecting=collecting or catalog.database.collecting,
        caches=catalog.caches,
        counters=CollectionCounters.on(metrics),
        gauges=CacheGauges(metrics),
        clock=clock,
        seconds=seconds,
    )


def catalog_fit(node: PushNode, *, clock: Callable[[], float] = time.time) -> CatalogFit:
    """The check whether the catalog fits the files that `node` has."""

    async def discard(now: Timestamp) -> Strays:
        owner, repairs = node.files.owner, node.catalog.repairs
        if owner is not None and not await owner.compare():
            if (unknown := await unknown_path(node.blobs, repairs)) is not None:
                return Strays(0, unknown)
            # Files without a narinfo do not show whose they are.
            await owner.check(fits=await knows_some(node.blobs, repairs))
        return await discard_strays(node.blobs, repairs, now=now)

    return CatalogFit(discard, node.catalog.database.collecting, clock=clock)


def static_renewal(node: PushNode, keys: CacheKeys) -> StaticRenewal:
    """The renewal of static narinfos after a key has changed; the process that collects runs it."""
    generation = node.catalog.database.watch(Topic.ACCESS)

    def state() -> object:
        return generation[0], tuple(key.name for key in keys.default)

    return StaticRenewal(node.catalog.caches, node.catalog.objects, _side_of(node, keys), state=state)


def _side_of(node: PushNode, keys: CacheKeys) -> StaticSideOf:
    async def side_of(name: CacheName) -> StaticSide | None:
        row = await node.catalog.caches.find(name)
        return None if row is None else node.caches.static_side(row, await keys.of(row))

    return side_of
