"""A push that finds no room is refused, and has room when it comes again: real files, a real catalog and a server."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import backing
import pytest
from house import Clock, House, blob, rooms_of, team
from pushed_paths import GLIBC, HELLO, STORE, Pushed, push, pushed
from pushing import OTHER, PushServer, pushed_to
from serving import Answer
from trees import File

from harmonia_py.catalog.caches import CacheId, CacheSettings
from harmonia_py.catalog.uploads import SESSION_SECONDS
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.metrics import families
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

LARGE: Final = pushed(StorePath("7rjj86a15146cq1d3qy068lml7n7ykzm-large"), File(b"x" * 4000))
OTHER_LARGE: Final = pushed(StorePath("8rjj86a15146cq1d3qy068lml7n7ykzm-large"), File(b"y" * 4000))
# With what is there, it fills the cache; the path that nothing references has to go.
MAX_SIZE: Final = len(LARGE.data) + len(GLIBC.data)
_GRACE: Final = 3600
_MARGIN: Final = 60
# What was pushed on the day before stays for the clients that pushed it.
_NEXT_DAY: Final = SESSION_SECONDS + _MARGIN


async def test_a_file_that_found_no_room_is_taken_after_a_collection_and_the_grace(tmp_path: Path) -> None:
    """A cache just below its limit refused a large file for ever: nothing went before the cache was above its limit."""
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=_GRACE, max_size=MAX_SIZE)) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        await _refused_and_taken(house, house.look, "the cache team", "its grace of 60 minutes")


async def test_room_is_made_in_the_storage_of_all_caches_as_well(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=_GRACE)) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        server.node.max_size = MAX_SIZE
        rooms = rooms_of(server, house.clock, server.node.max_size)

        async def look(ahead: float) -> None:
            await house.look(ahead)
            await rooms.look()

        # What goes may be of another cache, whose grace is another.
        await _refused_and_taken(house, look, "the storage of all caches", "its grace")


async def _refused_and_taken(house: House, look: Callable[[float], Awaitable[None]], what: str, grace: str) -> None:
    server, cache = house.server, (await team(house)).id
    await look(_NEXT_DAY)
    assert (await server.catalog.objects.size(None)).condemned == 0, "what is there has room"
    refused = await server.put(LARGE.place, LARGE.data)
    assert refused.status == 413
    said = (
        f"{what} is full: room for these {len(LARGE.data)} bytes is being made, "
        f"and what goes for it keeps {grace}; push again after that"
    )
    assert refused.body.decode().strip().endswith(said)
    await look(_NEXT_DAY)
    assert (await server.put(LARGE.place, LARGE.data)).status == 413, "what goes has its grace"
    await look(_NEXT_DAY + _GRACE + _MARGIN)
    assert blob(HELLO) not in house.files()
    # The room was given up when a header had asked for it, and gone when the body was cut.
    assert (await server.put(LARGE.place, bytes(len(LARGE.data)))).status == 400
    assert sum(await _wanted(server, cache)) == len(LARGE.data)
    assert (await push(server, LARGE)).status == 200
    assert sum(await _wanted(server, cache)) == 0


async def _wanted(server: PushServer, cache: CacheId) -> list[int]:
    """What is wanted in this cache, and in all."""
    return [await server.catalog.room_wanted.wanted(of, now=server.node.now()) for of in (cache, None)]


async def test_a_file_that_is_larger_than_the_limit_makes_nothing_go(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0, max_size=len(LARGE.data) - 1)) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        refused = await server.put(LARGE.place, LARGE.data)
        assert refused.status == 413
        assert b"has room for" in refused.body
        await house.look(_NEXT_DAY)
        assert {blob(HELLO), blob(GLIBC)} <= house.files()


async def _send_part(server: PushServer, what: Pushed, offset: int, end: int, *, session: str) -> Answer:
    place = f"/team/api/sessions/{session}/parts/{what.claim.path_info.nar_hash.nix32}.nar?offset={offset}"
    return await server.request("PATCH", place, what.data[offset:end])


async def _session(server: PushServer) -> str:
    return str(json.loads((await server.request("POST", "/team/api/sessions", b"")).body)["session"])


@pytest.mark.parametrize("limit", ["of the cache", "of all caches"])
async def test_what_has_come_of_files_in_parts_is_counted(tmp_path: Path, limit: str) -> None:
    """A client could send parts of any number of files, none of them too large, and fill the disk with them."""
    of_cache = MAX_SIZE if limit == "of the cache" else None
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0, max_size=of_cache)) as server:
        house, cache = House(server, Clock()), (await team(House(server, Clock()))).id
        server.node.max_size = None if of_cache else MAX_SIZE
        session, size = await _session(server), len(LARGE.data)
        assert (await _send_part(server, LARGE, 0, 3000, session=session)).status == 200
        refused = await server.put(OTHER_LARGE.place, OTHER_LARGE.data)
        assert (refused.status, b"is full" in refused.body) == (413, True)
        assert (await _send_part(server, OTHER_LARGE, 0, 3000, session=session)).status == 413
        # Its own rest has room, and it is counted once when it is whole.
        assert (await _send_part(server, LARGE, 2500, size, session=session)).status == 200
        done = await server.request(
            "POST",
            f"/team/api/sessions/{session}/parts/{LARGE.claim.path_info.nar_hash.nix32}.nar",
            json.dumps({"file": LARGE.claim.url.removeprefix("nar/"), "size": size}).encode(),
        )
        assert json.loads(done.body) == {"state": "received"}
        assert (await server.node.sizes.size(cache)).incoming_size == size
        assert (await server.node.sizes.size(None)).size == size
        assert (await push(server, GLIBC)).status == 200
        await house.look(_NEXT_DAY)


async def test_room_is_made_for_files_that_come_in_parts(tmp_path: Path) -> None:
    """What is on its way took no room from what is there, so that the rest of it was refused."""
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0, max_size=MAX_SIZE)) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        await house.look(_NEXT_DAY)
        session, size = await _session(server), len(LARGE.data)
        half = MAX_SIZE - len(GLIBC.data) - len(HELLO.data)
        assert (await _send_part(server, LARGE, 0, half, session=session)).status == 200
        assert (await _send_part(server, LARGE, half, size, session=session)).status == 413
        for ahead in (_NEXT_DAY, _NEXT_DAY + _MARGIN):
            await house.look(ahead)
        assert blob(HELLO) not in house.files()
        assert (await _send_part(server, LARGE, half, size, session=session)).status == 200


async def test_a_file_that_a_killed_process_left_behind_is_counted_and_goes_with_its_push(tmp_path: Path) -> None:
    """A process was killed when it had put a file where files are kept, and before it had told the catalog.

    No limit counted the file for the day until its push was swept: an hour of kills ended at 1.059 times `max_size`.
    """
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0, max_size=MAX_SIZE)) as server:
        house = House(server, Clock())
        cache = (await team(house)).id
        await _left_behind(server, cache)
        await house.look(_MARGIN)
        assert (await server.catalog.objects.size(cache)).incoming_size == len(LARGE.data)
        assert (await server.catalog.objects.size(None)).size == len(LARGE.data)
        head = await server.get(f"/push{LARGE.place}", token="pusher", method="HEAD")
        assert head.status == 404, "another cache may have sent it"
        assert (await server.put(HELLO.place, bytes(MAX_SIZE))).status == 413
        await house.look(_NEXT_DAY)
        assert house.files() == set()
        assert (await server.catalog.objects.size(None)).size == 0
        assert not await server.catalog.repairs.wrong_totals()


async def test_a_file_that_was_left_behind_has_room_when_it_comes_again(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0, max_size=MAX_SIZE)) as server:
        house = House(server, Clock())
        cache = (await team(house)).id
        await _left_behind(server, cache)
        await house.look(_MARGIN)
        await house.published(GLIBC, LARGE)
        size = await server.catalog.objects.size(cache)
        assert (size.size, size.incoming_size) == (MAX_SIZE, 0)
        assert not await server.catalog.repairs.wrong_totals()


async def test_a_name_of_what_was_left_behind_gives_no_room_to_a_larger_file(tmp_path: Path) -> None:
    """A client that named such a file might send as much as the limit to a cache that was full."""
    larger = LARGE.data + b"x"
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0, max_size=len(larger))) as server:
        house = House(server, Clock())
        await _left_behind(server, (await team(house)).id)
        await house.look(_MARGIN)
        assert (await server.put(LARGE.place, larger)).status == 413
        assert (await server.put(LARGE.place, LARGE.data)).status == 200


@pytest.mark.skipif(backing.IN_BUCKET, reason="a name on a disk that leads to itself")
async def test_a_file_that_cannot_be_read_holds_up_neither_the_others_nor_the_collection(tmp_path: Path) -> None:
    """Each pass ended at that file, for the day until its push was swept, and a full cache took nothing meanwhile."""
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0)) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        cache, key = (await team(house)).id, BlobKey(blob(GLIBC).replace("/", "/1"))
        loop = server.directory / key
        loop.symlink_to(loop.name)
        with pytest.raises(StorageError, match="symbolic links"):
            await server.node.blobs.metadata(key)
        await server.catalog.uploads.expect(cache, "before", Hash.of(b"loop"), key, now=server.node.now())
        await _left_behind(server, cache)
        await house.look(_MARGIN)
        assert (await server.catalog.objects.size(cache)).incoming_size == len(LARGE.data)
        assert house.shown(families.pushed.COLLECTION_TIME) > 0, "the pass went on to its end"


async def test_a_storage_that_does_not_answer_ends_the_pass_at_the_first_files_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass waited for sixteen time limits of a bucket, one after the other, and held the collector's lock."""
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0)) as server:
        house = House(server, Clock())
        cache, asked = (await team(house)).id, list[BlobKey]()
        await _expect(server, cache, range(40))

        async def silent(_self: object, key: BlobKey) -> None:
            asked.append(key)
            raise StorageError("the bucket does not answer in time")

        with monkeypatch.context() as patch:
            patch.setattr(type(server.node.blobs), "metadata", silent)
            for passes in (1, 2):
                with pytest.raises(StorageError, match="does not answer in time"):
                    await house.look(_MARGIN)
                assert len(asked) == passes * 16
        assert len(set(asked)) == 32, "the next pass begins behind those that were asked for"


@pytest.mark.skipif(backing.IN_BUCKET, reason="names on a disk that lead to themselves")
async def test_many_files_that_cannot_be_read_put_off_what_follows_them_and_do_not_stop_it(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(grace=0)) as server:
        house = House(server, Clock())
        cache = (await team(house)).id
        await _left_behind(server, cache)
        for key in await _expect(server, cache, range(40)):
            loop = server.directory / key
            loop.parent.mkdir(exist_ok=True)
            loop.symlink_to(loop.name)
        passes, errors = 8, list[str]()
        for _ in range(passes):
            try:
                await house.look(_MARGIN)
            except StorageError as error:
                errors.append(str(error))
        assert all("symbolic links" in error for error in errors)
        assert 0 < len(errors) < passes - 1
        assert (await server.catalog.objects.size(cache)).incoming_size == len(LARGE.data)


async def _expect(server: PushServer, cache: CacheId, numbers: range) -> list[BlobKey]:
    """Files that a push said it would bring."""
    keys = []
    for number in numbers:
        file_hash = Hash.of(str(number).encode())
        keys.append(BlobKey(f"nar/{file_hash.nix32}.nar"))
        await server.catalog.uploads.expect(cache, "before", file_hash, keys[-1], now=server.node.now())
    return keys


async def test_a_file_of_another_cache_is_not_counted_where_it_was_only_expected(tmp_path: Path) -> None:
    """Nothing tells a cache which files others have: neither the size of what is on its way, nor the push URLs."""
    async with pushed_to(tmp_path, STORE, CacheSettings()) as server:
        house = House(server, Clock())
        await house.published(LARGE)
        refused = await server.request("PUT", f"/other/push{LARGE.place}", bytes(len(LARGE.data)), token="stranger")
        assert refused.status == 400
        await house.look(_MARGIN)
        other = await server.catalog.caches.find(OTHER)
        assert other is not None
        assert (await server.catalog.objects.size(other.id)).incoming_size == 0
        head = await server.request("HEAD", f"/other/push{LARGE.place}", token="stranger")
        assert head.status == 404


async def _left_behind(server: PushServer, cache: CacheId) -> None:
    """Do what a process does with a file up to the moment in which it is killed."""
    now, key = server.node.now(), BlobKey(blob(LARGE))
    assert LARGE.claim.file_hash is not None
    await server.catalog.uploads.expect(cache, "killed", LARGE.claim.file_hash, key, now=now)
    await server.node.blobs.put(key, LARGE.data, {}, durable=True)
