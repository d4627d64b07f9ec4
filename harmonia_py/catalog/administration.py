"""One cache of the catalog with the ports by which pages, the API and commands show and administer it."""

from collections.abc import Callable

from msgspec import Struct

from harmonia_py.catalog.caches import CacheRow, Timestamp
from harmonia_py.catalog.deletion import Deletions
from harmonia_py.catalog.pins import Pins
from harmonia_py.catalog.standing import Standings


class CacheAdministration(Struct, frozen=True, kw_only=True):
    """One cache of the catalog, and the ports by which it is administered.

    Attributes:
        row: the cache.
        pins: the pins of all caches.
        deletions: delete paths of any cache.
        standings: tell what keeps paths of any cache.
        now: the time as the catalog has it.
    """

    row: CacheRow
    pins: Pins
    deletions: Deletions
    standings: Standings
    now: Callable[[], Timestamp]
