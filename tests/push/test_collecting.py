"""What becomes of what was pushed and is not needed: real files and a real catalog, and a clock that the test turns."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from catalogs import publication
from house import Clock, House, blob, listing, static, status, team
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, push
from pushing import OTHER, TEAM, pushed_to
from waiting import eventually

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.audit import AuditEntry
from harmonia_py.catalog.caches import CacheSettings, Timestamp
from harmonia_py.catalog.pins import PinName
from harmonia_py.catalog.pushed_housekeeping import AUDIT_SECONDS
from harmonia_py.catalog.uploads import SESSION_SECONDS, WAITING_SECONDS, Session
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.metrics import families
from harmonia_py.metrics.cache_labels import MOST_NAMED, OTHERS
from harmonia_py.metrics.totals import read_figures
from harmonia_py.nix import base32
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.static_side import Deleter, StaticSide

# A pass is made so long before, or after, a limit: pushes of a test take less than that.
_MARGIN: Final = 60
_UNUSED: Final = 30 * 86_400
_GRACE: Final = 3600


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    settings = CacheSettings(keep_unused=_UNUSED, grace=_GRACE)
    clock = Clock()
    async with pushed_to(tmp_path, STORE, settings, clock) as server:
        yield House(server, clock)


async def test_a_file_without_a_narinfo_goes_a_day_after_the_last_sign_of_life_of_its_push(house: House) -> None:
    assert (await house.server.put(GLIBC.place, GLIBC.data, run="r1")).status == 200
    await house.look(SESSION_SECONDS - _MARGIN)
    assert blob(GLIBC) in house.files()
    assert house.counted(families.pushed.PUSHES_SWEPT) == 0
    await house.look(SESSION_SECONDS + _MARGIN)
    assert house.files() == set()
    assert house.counted(families.pushed.PUSHES_SWEPT) == 1
    assert house.counted(families.pushed.PUSHED_FILES_SWEPT) == 1
    assert house.counted(families.pushed.COLLECTED_FILES) == 1
    head = await house.server.get(f"/push/r1{GLIBC.place}", token="pusher", method="HEAD")
    assert head.status == 404, "the client sends it again"


async def test_a_file_that_outlived_its_row_in_a_power_cut_goes_after_the_next_start(house: House) -> None:
    """A file was durable and the row that named it was not; the client came again with another compression."""
    await house.published(GLIBC)
    assert (await house.server.put(HELLO.place, HELLO.data)).status == 200
    await house.server.node.blobs.put(BlobKey("nar/0nfsgqra868vznbn558j3l1xbzrdmwdfdgysxhd98jlyzfmdl126.nar"), b"x", {})
    named = {blob(GLIBC), blob(HELLO), static(REFERENCE), listing(REFERENCE), "team/nix-cache-info"}
    running = asyncio.create_task(house.service.run())
    await eventually(lambda: house.files() == named)
    running.cancel()
    await asyncio.wait([running])


async def test_a_file_stays_while_its_push_shows_signs_of_life(house: House) -> None:
    """Clients from Nix 2.35 on bring every NAR first, for hours, and the narinfos at the end."""
    await house.server.put(GLIBC.place, GLIBC.data, run="r1")
    await house.server.put(HELLO.place, HELLO.data, run="dead")
    session = await session_of(house, "r1")
    later = Timestamp(int(time.time()) + SESSION_SECONDS - _MARGIN)
    sign = Session(id=session, cache=(await team(house)).id, principal="token pusher", begun=later, seen=later)
    await house.server.catalog.uploads.session(sign)
    await house.look(2 * SESSION_SECONDS - 3 * _MARGIN)
    assert house.files() == {blob(GLIBC)}
    assert (await push(house.server, GLIBC, run="r1")).status == 200
    await house.look(2 * SESSION_SECONDS)
    assert blob(GLIBC) in house.files(), "a cache has it"


async def test_a_path_whose_references_do_not_come_within_an_hour_is_given_up_and_counted(house: House) -> None:
    await house.published(HELLO)
    await house.look(WAITING_SECONDS - _MARGIN)
    assert blob(HELLO) in house.files()
    await house.look(WAITING_SECONDS + _MARGIN)
    assert house.files() == set()
    assert house.counted(families.pushed.PUSHED_PATHS, "waited_in_vain") == 1
    await house.published(GLIBC)
    assert await status(house, PATH) == 404
    await house.published(HELLO)
    assert await status(house, PATH) == 200, "and can be pushed again"


async def test_all_of_a_deleted_cache_goes_and_nothing_that_another_cache_has(house: House) -> None:
    await house.published(GLIBC, HELLO)
    for place, data in ((GLIBC.place, GLIBC.data), (f"/{REFERENCE.hash_part}.narinfo", GLIBC.narinfo)):
        answer = await house.server.request("PUT", f"/{OTHER}/push{place}", data, token="stranger")
        assert answer.status == 200
    await house.published()
    derivation = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv")
    assert (await house.server.put(f"/log/{derivation}", b"built\n")).status == 200
    await house.published(GLIBC.claiming(deriver=derivation))
    everything = house.files()
    assert {static(PATH), static(REFERENCE), blob(HELLO), blob(GLIBC), "team/nix-cache-info"} <= everything
    assert await house.server.catalog.caches.delete(TEAM, now=Timestamp(int(time.time())))
    await house.look(0)
    of_reference = {f"other/{REFERENCE.hash_part}.{suffix}" for suffix in ("narinfo", "ls")}
    of_other = {"other/nix-cache-info", *of_reference, blob(GLIBC)}
    assert house.files() == of_other | {"team/nix-cache-info", f"team/log/{derivation}"}
    await house.look(SESSION_SECONDS + _MARGIN)
    assert house.files() == of_other, "with its last session the cache itself"
    answer = await house.server.request("GET", f"/{OTHER}/{REFERENCE.hash_part}.narinfo", token="stranger")
    assert answer.status == 200


async def test_what_was_unused_for_too_long_goes_after_its_grace_and_its_narinfo_with_it(house: House) -> None:
    await house.published(GLIBC, HELLO)
    await house.look(_UNUSED - _MARGIN)
    await house.look(_UNUSED + _MARGIN)
    await house.look(_UNUSED + _GRACE - _MARGIN)
    assert {static(PATH), blob(HELLO)} <= house.files()
    await house.look(_UNUSED + _GRACE + 3 * _MARGIN)
    assert house.files() == {"team/nix-cache-info"}
    assert house.counted(families.pushed.COLLECTED_PATHS) == 2
    assert house.counted(families.pushed.COLLECTED_BYTES) == len(HELLO.data) + len(GLIBC.data)


async def test_what_is_asked_for_keeps_all_that_it_references(house: House) -> None:
    """`keep_unused` counted from the push: no use was written down before a path was condemned."""
    await house.published(GLIBC, HELLO)
    house.clock.ahead = _UNUSED - _MARGIN
    assert await status(house, PATH) == 200
    await house.look(_UNUSED + _MARGIN)
    await house.look(_UNUSED + _GRACE + 3 * _MARGIN)
    assert {blob(HELLO), blob(GLIBC)} <= house.files()
    size = await house.server.catalog.objects.size((await team(house)).id)
    assert (size.condemned, house.counted(families.pushed.COLLECTED_PATHS)) == (0, 0)


async def test_what_a_pin_reaches_stays_however_long_it_is_unused(house: House) -> None:
    cache, release = (await team(house)).id, PinName("release")
    pins, now = house.server.catalog.pins, Timestamp(int(time.time()))
    await pins.set(cache, release, PATH, set_by="tests", now=now)
    await house.published(GLIBC, HELLO)
    for days in (31, 32, 365):
        await house.look(days * 86_400)
    assert {blob(HELLO), blob(GLIBC), static(PATH)} <= house.files()
    await pins.remove(cache, release, removed_by="tests", now=now)
    for days in (400, 401):
        await house.look(days * 86_400)
    assert house.files() == {"team/nix-cache-info"}


async def test_how_much_there_is_in_each_state_is_shown_after_each_collection(house: House) -> None:
    await house.published(HELLO)
    cache, now = (await team(house)).id, Timestamp(int(time.time()))
    await house.server.catalog.pins.set(cache, PinName("release"), REFERENCE, set_by="tests", now=now)
    await house.look(0)
    assert house.shown(families.pushed.KEPT_PATHS, "waiting") == 1
    assert house.shown(families.pushed.PINS) == 1
    assert house.shown(families.pushed.PINNED_PATHS) == 0, "it waits"
    await house.published(GLIBC)
    await house.look(0)
    assert house.shown(families.pushed.KEPT_PATHS, "published") == 2
    assert house.shown(families.pushed.KEPT_BYTES, "published") == len(HELLO.data) + len(GLIBC.data)
    assert house.shown(families.pushed.PINNED_PATHS) == 1
    await house.look(_UNUSED + _MARGIN)
    assert (
        house.shown(families.pushed.KEPT_PATHS, "published"),
        house.shown(families.pushed.KEPT_PATHS, "condemned"),
    ) == (1, 1)
    assert house.shown(families.pushed.KEPT_BYTES, "condemned") == len(HELLO.data)
    assert house.shown(families.pushed.GARBAGE_FILES) == 0
    assert abs(house.shown(families.pushed.COLLECTION_TIME) - house.clock()) < _MARGIN


async def test_what_each_cache_has_is_shown_after_each_collection(house: House) -> None:
    of_team = (families.caches.CACHES_KEPT_PATHS, families.caches.CACHES_KEPT_BYTES, families.caches.CACHES_MAX_BYTES)
    caches = house.server.catalog.caches
    assert await caches.change(TEAM, {"max_size": 2**40})
    await house.published(GLIBC)
    await house.look(0)
    assert [house.shown(family, TEAM) for family in of_team] == [1, len(GLIBC.data), 2**40]
    assert house.shown(families.caches.CACHES_KEPT_PATHS, OTHER) == 0
    pushed = families.caches.CACHES_PUSHED_NARS
    assert [house.server.metrics.counter(pushed, name).value for name in (TEAM, OTHER)] == [1, 0]
    assert await caches.delete(TEAM, now=Timestamp(int(time.time())))
    await house.look(0)
    assert [house.shown(family, TEAM) for family in of_team] == [0, 0, 0]


async def test_more_caches_than_can_be_named_are_shown_together(house: House) -> None:
    caches = house.server.catalog.caches
    for number in range(MOST_NAMED):
        await caches.create(CacheName(f"n{number}"), CacheSettings(), declared=False, now=Timestamp(0))
    last = CacheName(f"n{MOST_NAMED - 1}")
    row = await caches.find(last)
    assert row is not None
    await house.server.catalog.objects.publish(publication(row.id, "a"), now=Timestamp(int(time.time())))
    await house.look(0)
    assert house.shown(families.caches.CACHES_KEPT_PATHS, OTHERS) == 1
    assert families.caches.CACHES_KEPT_PATHS.series(last) not in read_figures(house.metrics.board)


async def test_what_is_condemned_is_revived_by_a_reader(house: House) -> None:
    await house.published(GLIBC, HELLO)
    await house.look(_UNUSED + _MARGIN)
    cache = (await team(house)).id
    assert (await house.server.catalog.objects.size(cache)).condemned == 2
    assert await status(house, PATH) == 200
    assert (await house.server.catalog.objects.size(cache)).condemned == 0
    assert {blob(HELLO), blob(GLIBC), static(PATH)} <= house.files()


async def test_the_longest_unused_go_when_a_cache_is_larger_than_it_may_be(tmp_path: Path) -> None:
    settings = CacheSettings(max_size=len(HELLO.data) + len(GLIBC.data) - 1, grace=0)
    async with pushed_to(tmp_path, STORE, settings) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        await house.look(_MARGIN)
        assert blob(HELLO) in house.files(), "its push lives, and was told that it is here"
        await house.look(SESSION_SECONDS + _MARGIN)
        assert house.files() >= {blob(GLIBC), static(REFERENCE)}
        assert not {blob(HELLO), static(PATH)} & house.files(), "a root, though what it references is older"


async def test_a_narinfo_that_was_published_again_before_its_file_went_is_written_again(house: House) -> None:
    await house.published(GLIBC)
    key = f"team/{REFERENCE.hash_part}.narinfo"
    side = house.server.node.caches.static_side(await team(house), [])

    async def side_of(_name: CacheName) -> StaticSide:
        return side

    before = (house.server.directory / key).read_bytes()  # nothing else runs here
    deleter = Deleter(house.server.node.blobs, side_of, house.server.catalog.objects.paths)
    assert await deleter.delete([key, "nar/absent.nar"]) == []
    assert (house.server.directory / key).read_bytes() == before


async def test_each_published_path_is_in_the_audit_log_once_and_for_ninety_days(house: House) -> None:
    await house.published(HELLO)
    assert await audit(house) == []
    await house.published(GLIBC, GLIBC)
    entries = await audit(house)
    assert {(one.principal, one.action, one.cache, one.subject) for one in entries} == {
        ("token pusher", "push", "team", PATH),
        ("token pusher", "push", "team", REFERENCE),
    }
    assert len(entries) == 2
    assert json.loads(entries[0].detail)["nar_hash"].startswith("sha256:")
    await house.look(AUDIT_SECONDS - _MARGIN)
    assert len(await audit(house)) == 2
    await house.look(AUDIT_SECONDS + _MARGIN)
    assert await audit(house) == []


async def test_the_housekeeping_of_a_running_server_sweeps_and_collects(house: House) -> None:
    """Passes every 20 ms, beside requests; the clock goes on by a day while they are made."""
    await house.published(GLIBC)
    await house.server.put(HELLO.place, HELLO.data)
    working = asyncio.create_task(house.service.run())
    try:
        assert {blob(GLIBC), blob(HELLO)} <= house.files()
        house.clock.ahead = SESSION_SECONDS + _MARGIN
        await eventually(lambda: blob(HELLO) not in house.files(), "the file is swept")
        assert await status(house, REFERENCE) == 200
        assert await house.server.catalog.caches.delete(TEAM, now=Timestamp(int(time.time())))
        await eventually(lambda: not house.files(), "the cache is gone")
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def audit(house: House) -> list[AuditEntry]:
    return list(await house.server.catalog.audit.page(None, 100))


async def session_of(house: House, run: str) -> str:
    """The session of what `pusher` pushes in this run."""
    row = await team(house)
    key = hashlib.sha256(f"{row.id}\0token pusher\0{run}".encode()).digest()
    return base32.encode(key[:20])
