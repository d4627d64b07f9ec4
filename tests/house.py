"""A server that is pushed to, with its housekeeping, and a clock that the test turns.

house = House(server, Clock())        # a `PushServer` of pushing.py
await house.published(GLIBC, HELLO)
await house.look(30 * 86_400)         # a pass of the collector at that time from now
house.files()                         # {"nar/….nar", "team/….narinfo", "team/….ls", "team/nix-cache-info"}
"""

import time

from pushed_paths import Pushed, push
from pushing import TEAM, PushServer
from serving import Answer

from harmonia_py.catalog.caches import CacheRow
from harmonia_py.catalog.collection import Collecting
from harmonia_py.catalog.pushed_housekeeping import PushedHousekeeping
from harmonia_py.catalog.quota import Limits
from harmonia_py.catalog.rooms import Room, Rooms
from harmonia_py.metrics.board import Metrics
from harmonia_py.metrics.family import Family
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import StorePath
from harmonia_py.wiring.cache_keys import CacheKeys
from harmonia_py.wiring.collecting import catalog_fit, pushed_collector, pushed_housekeeping
from harmonia_py.wiring.deduplicating import pushed_packs


class Clock:
    """Seconds since the epoch, and those that a test adds."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class House:
    """A server, its housekeeping, and what that counted."""

    def __init__(self, server: PushServer, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.metrics = Metrics.alone()
        self.work = self._housekeeping(server.catalog.database.collecting)
        # As a server runs it, which looks first whether the catalog is that of the files.
        self.service = self._housekeeping(catalog_fit(server.node, clock=clock).collecting)

    def _housekeeping(self, collecting: Collecting) -> PushedHousekeeping:
        return pushed_housekeeping(
            self.server.node,
            CacheKeys(self.server.catalog.keys),
            self.metrics,
            collecting=collecting,
            clock=self.clock,
            seconds=0.02,
        )

    async def look(self, ahead: float) -> None:
        """Have a pass made at that time from now."""
        self.clock.ahead = ahead
        await self.work.look()

    def files(self) -> set[str]:
        """The files that are kept, as other programs see them."""
        directory = self.server.directory
        found = (path for path in directory.rglob("*") if path.is_file())
        return {str(path.relative_to(directory)) for path in found if not path.name.startswith(".")}

    async def published(self, *what: Pushed) -> None:
        for one in what:
            assert (await push(self.server, one)).status == 200
        await self.server.node.static_writer.written()

    def counted(self, family: Family, *labels: str) -> int:
        return int(self.metrics.counter(family, *labels).value)

    def shown(self, family: Family, *labels: str) -> int:
        return int(self.metrics.gauge(family, *labels).value)


def blob(what: Pushed) -> str:
    return what.place.removeprefix("/")


def static(path: StorePath) -> str:
    return f"team/{path.hash_part}.narinfo"


def listing(path: StorePath) -> str:
    return f"team/{path.hash_part}.ls"


async def download(house: House, what: Pushed) -> Answer:
    """The NAR, by the URL that readers of the cache are given."""
    url = NarUrl(what.path.hash_part, what.claim.path_info.nar_hash, what.claim.compression)
    return await house.server.get(f"/{url}")


async def status(house: House, path: StorePath) -> int:
    return (await house.server.get(f"/{path.hash_part}.narinfo")).status


async def team(house: House) -> CacheRow:
    row = await house.server.catalog.caches.find(TEAM)
    assert row is not None
    return row


def rooms_of(server: PushServer, clock: Clock, max_size: int | None) -> Rooms:
    """All that the server keeps, held to this size in bytes, as pushes are."""
    server.node.max_size = max_size
    rooms = Rooms(clock=clock)
    rooms.limits = Limits(max_size=max_size)
    rooms.add(room_of(server))
    return rooms


def room_of(server: PushServer) -> Room:
    """What the server keeps, to be held to limits."""
    catalog, node = server.catalog, server.node
    collector = pushed_collector(node, CacheKeys(catalog.keys))
    return Room(
        collector=collector,
        scopes=collector.scopes,
        sizes=node.sizes,
        uses=node.uses,
        collecting=catalog.database.collecting,
        free_bytes=node.space.free_bytes,
        device=0,
        packs=pushed_packs(node, server.metrics),
        wanted=catalog.room_wanted,
    )
