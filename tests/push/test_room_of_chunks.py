"""`[storage] max_size` counts what the storage has: of files in chunks, the packs and not the bytes that are sent."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from chunking import LIBRARY, make_chunks, program
from house import Clock, House, room_of, rooms_of, status, team
from msgspec.structs import replace
from pushed_paths import REFERENCE, STORE, Pushed, push, pushed
from pushing import pushed_to

from harmonia_py.catalog.caches import CacheSettings, Timestamp
from harmonia_py.catalog.quota import Limits
from harmonia_py.catalog.rooms import Rooms
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.database.transaction import ask
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

_GRACE: Final = 3600
_DAY: Final = 86_400
_USED: Final = "update objects set used_s = $2, aged_from_s = $2 where hash_part = $1"


def build(number: int, *, seed: int = 1) -> Pushed:
    """A program: builds with the same seed differ in their hash parts alone."""
    path = StorePath(f"{base32.encode(Hash.of(str(number).encode()).digest[:20])}-build-{number}")
    return pushed(path, program(path, 300_000, seed), REFERENCE, compression="zstd")


async def filled(house: House, builds: Sequence[Pushed]) -> None:
    """Publish builds, the first used the longest ago, and make chunks of each before the next comes."""
    for number, one in enumerate(builds):
        await house.published(one)
        used = partial(ask, _USED, str(one.path.hash_part), 1_600_000_000 + number)
        await house.server.catalog.database.write(used)
        await make_chunks(house)
    # The leases of the pushes have ended by then.
    await house.look(_DAY)


def on_disk(house: House) -> int:
    directory = house.server.directory
    kept = [name for name in house.files() if name.startswith(("nar/", "packs/"))]
    return sum((directory / name).stat().st_size for name in kept)


async def stored(house: House) -> int:
    return (await house.server.catalog.objects.size(None)).stored_size


async def left(house: House, builds: Sequence[Pushed]) -> list[Pushed]:
    return [one for one in builds if await status(house, one.path) == 200]


async def test_rebuilds_that_share_their_chunks_take_the_room_of_one(tmp_path: Path) -> None:
    """They counted as they are sent: paths went, and pushes were refused, while the disk was nearly empty."""
    builds = [build(number) for number in range(6)]
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0)) as server:
        house = House(server, Clock())
        rooms = rooms_of(server, house.clock, 2 * len(builds[0].data))
        await house.published(LIBRARY)
        for one in builds:
            assert (await push(server, one)).status == 200
            await make_chunks(house)
            await rooms.look()
        await house.look(0)
        assert await left(house, builds) == builds
        assert on_disk(house) == await stored(house) < 2 * len(builds[0].data)


@pytest.mark.parametrize("grace", [0, _GRACE])
async def test_as_much_goes_as_the_packs_need_and_no_more(tmp_path: Path, grace: int) -> None:
    builds = [build(number, seed=number) for number in range(8)]
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=grace)) as server:
        house = House(server, Clock())
        await house.published(LIBRARY)
        await filled(house, builds)
        limit = await stored(house) // 2
        rooms = rooms_of(server, house.clock, limit)
        for seconds in (10, 20, 30):
            house.clock.ahead = _DAY + seconds
            await rooms.look()
        # A request would revive what is condemned.
        size = await server.catalog.objects.size(None)
        assert (size.objects, size.condemned) == ((9, 5) if grace else (4, 0))
        await house.look(_DAY + 2 * _GRACE)
        await rooms.look()
        assert limit // 2 < await stored(house) <= limit
        assert await left(house, builds) == builds[-3:]
        await house.look(2 * _DAY)
        assert on_disk(house) == await stored(house)
        assert not await server.catalog.repairs.wrong_totals()


async def test_rebuilds_go_until_there_is_room_however_little_each_of_them_frees(tmp_path: Path) -> None:
    """What is in the way shares nearly all of its chunks with what stays."""
    builds = [build(number) for number in range(6)]
    other = build(7, seed=7)
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0)) as server:
        house = House(server, Clock())
        await house.published(LIBRARY)
        await filled(house, [*builds, other])
        limit = on_disk(house) * 2 // 3
        rooms = rooms_of(server, house.clock, limit)
        for _ in range(3):
            await rooms.look()
        assert await left(house, [*builds, other]) == [other]
        assert await stored(house) <= limit


async def test_packs_that_are_deleted_count_as_free_once(tmp_path: Path) -> None:
    """Nothing had used them: they were deleted at once, and counted as leaving for ten minutes more. The disk had less
    free than `min_free` meanwhile."""
    builds = [build(number, seed=number) for number in range(6)]
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0)) as server:
        house = House(server, Clock())
        await house.published(LIBRARY)
        await make_chunks(house)
        await filled(house, builds)
        total = on_disk(house)

        async def free() -> int:
            return total - on_disk(house)

        wanted = 3 * len(builds[0].data)
        parts = [one.path.hash_part for one in builds[:2]]
        row, now = await team(house), Timestamp(int(house.clock()))
        assert len((await server.catalog.deletions.delete(row.id, parts, deleted_by="test", now=now)).paths) == 2
        rooms = Rooms(clock=house.clock)
        rooms.limits = Limits(min_free=wanted)
        rooms.add(replace(room_of(server), free_bytes=free))
        for _ in range(2):
            await rooms.look()
        assert await free() >= wanted
        assert 0 < len(await left(house, builds)) <= 3


async def test_a_pack_that_cannot_be_read_while_room_is_made_is_an_error_and_goes_with_what_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was counted only where the job that makes chunks had met it."""
    builds = [build(number, seed=number) for number in range(4)]
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0)) as server:
        house = House(server, Clock())
        await house.published(LIBRARY, *builds)
        await make_chunks(house)
        await house.look(_DAY)
        parts = [one.path.hash_part for one in builds[1:]]
        row, now = await team(house), Timestamp(int(house.clock()))
        assert len((await server.catalog.deletions.delete(row.id, parts, deleted_by="test", now=now)).paths) == 3
        rooms = rooms_of(server, house.clock, len(builds[0].data) // 2)

        async def fail(key: BlobKey) -> None:
            raise StorageError("cannot open a file: Stale file handle")

        monkeypatch.setattr(server.node.blobs, "open", fail)
        await rooms.look()
        assert server.metrics.counter(families.chunks.DEDUPLICATION_ERRORS, "pushed").value == 1
        assert await left(house, builds) == []
        assert on_disk(house) == 0
