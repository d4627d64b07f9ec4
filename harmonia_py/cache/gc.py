"""Which blobs go when the disk is full: a pure plan, and the loop that carries it out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from harmonia_py.cache.blobs import BlobInfo, BlobKey, BlobStore
from harmonia_py.cache.census import Census
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Gauge
from harmonia_py.metrics.figures import Figures, counted, gauged

_log = logging.getLogger(__name__)

# Once eviction begins it makes this much more room than it must, so that the next blob does not start it again.
_SLACK: Final = 0.05
# Free space is cheap to ask for. Other programs fill the disk as well.
_CHECK_SECONDS: Final = 10.0
# Listing costs a system call per blob: seldom while the limit is far, in time for the fastest disk when it is near.
_LONGEST_BETWEEN_LISTINGS_SECONDS: Final = 600.0
_FASTEST_GROWTH_BYTES_PER_SECOND: Final = 500_000_000
# So much of the plan is made at once, in a millisecond of a thread.
_PORTION: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much room blobs may take.

    Attributes:
        max_size: bytes of all blobs together; None for as much as `min_free` allows.
        min_free: bytes of the file system that stay free for others.
    """

    max_size: int | None
    min_free: int


def itself(key: BlobKey) -> str:
    """Each blob goes alone."""
    return key


def plan_eviction(
    census: Census,
    *,
    in_flight: Collection[BlobKey],
    limits: Limits,
    free: int,
    unit_of: Callable[[BlobKey], str] = itself,
) -> Iterator[BlobInfo]:
    """The blobs to delete, least recently used first; none while both limits hold.

    Blobs of one unit go together, what is small before what is large: a narinfo whose NAR is gone would be worse than
    neither. Never a unit with a blob that is `in_flight`, even if a limit cannot be kept without. The work is spread
    over the iteration.
    """
    excess = _excess(census.bytes, limits, free)
    if excess <= 0:
        return
    for unit in census.least_recently_used(unit_of, {unit_of(key) for key in in_flight}):
        yield from unit
        excess -= sum(blob.size for blob in unit)
        if excess <= 0:
            return


def _excess(size: int, limits: Limits, free: int) -> int:
    """How many bytes must go: 0 when both limits hold, otherwise a little more than they demand."""
    excess = 0
    if limits.max_size is not None and size > limits.max_size:
        excess = size - int(limits.max_size * (1 - _SLACK))
    if free < limits.min_free:
        excess = max(excess, int(limits.min_free * (1 + _SLACK)) - free)
    return excess


@dataclass(frozen=True, slots=True)
class EvictionCounters(Figures):
    """What eviction has seen and done since the start.

    Attributes:
        blobs: how many there were at the last look.
        bytes: how large they were together.
        evicted_blobs: deleted since the start.
        evicted_bytes: their size together.
    """

    blobs: Gauge = gauged(families.CACHE_BLOBS)
    bytes: Gauge = gauged(families.CACHE_BYTES)
    evicted_blobs: Counter = counted(families.CACHE_EVICTED_BLOBS)
    evicted_bytes: Counter = counted(families.CACHE_EVICTED_BYTES)


async def keep_within_limits(
    blobs: BlobStore,
    limits: Limits,
    *,
    free_bytes: Callable[[], Awaitable[int]],
    in_flight: Callable[[], Collection[BlobKey]],
    counters: EvictionCounters,
    unit_of: Callable[[BlobKey], str] = itself,
) -> None:
    """Evict for ever. One process of all that share the blobs does this; whoever starts it cancels it.

    Args:
        blobs: what is kept.
        limits: how much of it.
        free_bytes: how much room the file system has.
        in_flight: blobs that are being read.
        counters: kept up to date.
        unit_of: names what goes together.
    """
    until_listing = 0.0
    while True:
        try:
            if until_listing <= 0 or await free_bytes() < limits.min_free:
                await evict(
                    blobs, limits, free=await free_bytes(), in_flight=in_flight, counters=counters, unit_of=unit_of
                )
                until_listing = _seconds_until_full(counters.bytes.value, limits)
        except StorageError as error:
            _log.warning("cannot evict: %s", error)
        await asyncio.sleep(_CHECK_SECONDS)
        until_listing -= _CHECK_SECONDS


async def evict(
    blobs: BlobStore,
    limits: Limits,
    *,
    free: int,
    in_flight: Callable[[], Collection[BlobKey]],
    counters: EvictionCounters,
    unit_of: Callable[[BlobKey], str] = itself,
) -> None:
    """Look once, and delete what the plan says."""
    census = Census()
    try:
        async for info in blobs.list():
            census.add(info)
        counters.blobs.set(len(census))
        counters.bytes.set(census.bytes)
        plan = plan_eviction(census, in_flight=in_flight(), limits=limits, free=free, unit_of=unit_of)
        evicted = 0
        while portion := await asyncio.to_thread(lambda: list(islice(plan, _PORTION))):
            await _delete(blobs, portion, in_flight, counters)
            evicted += len(portion)
    finally:
        await asyncio.to_thread(census.clear)
    if evicted:
        _log.info("evicted %d blobs, %d bytes are left", evicted, counters.bytes.value)


async def _delete(
    blobs: BlobStore,
    plan: Iterable[BlobInfo],
    in_flight: Callable[[], Collection[BlobKey]],
    counters: EvictionCounters,
) -> None:
    for info in plan:
        if info.key in in_flight():  # since the plan was made
            continue
        await blobs.delete(info.key)
        counters.blobs.add(-1)
        counters.bytes.add(-info.size)
        counters.evicted_blobs.add()
        counters.evicted_bytes.add(info.size)


def _seconds_until_full(size: float, limits: Limits) -> float:
    if limits.max_size is None:
        return _LONGEST_BETWEEN_LISTINGS_SECONDS
    return min(_LONGEST_BETWEEN_LISTINGS_SECONDS, (limits.max_size - size) / _FASTEST_GROWTH_BYTES_PER_SECOND)
