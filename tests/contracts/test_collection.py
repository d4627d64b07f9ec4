"""What every catalog promises to its collector, tried on each database that there is."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from catalogs import (
    BACKENDS,
    NOW,
    hash_part,
    hash_parts,
    later,
    nar_file,
    opened_catalog,
    publication,
    receive,
    store_path,
)
from msgspec.structs import replace

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.source import AT_ONCE, Download, NotAtOnce
from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheId, CacheSettings, Timestamp
from harmonia_py.catalog.changes import Changes
from harmonia_py.catalog.collection import Collected, CondemnedObject, Reason, Scope
from harmonia_py.catalog.collector import Collector, make_room
from harmonia_py.catalog.deletion import Deleted, delete_closure
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.objects import Document, DocumentKind, Objects, ObjectState
from harmonia_py.catalog.pins import PinName, PinRuleChange
from harmonia_py.catalog.quarantine import Quarantine
from harmonia_py.catalog.reachability import KeptBy, WhyKept, why_kept
from harmonia_py.catalog.room_wanted import WANTED_SECONDS
from harmonia_py.catalog.stored import StoredObjects
from harmonia_py.catalog.uploads import SESSION_SECONDS, UNCLAIMED_SECONDS, WAITING_SECONDS, Session
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.totals import add_objects
from harmonia_py.database.transaction import Topic
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import HashPart, StorePath

CACHE = DEFAULT_CACHE
RELEASE, P = PinName("release"), PinName("p")
GRACE = 100
SETTINGS = CacheSettings(keep_unused=1000, grace=GRACE)
SCOPE = Scope(cache=CACHE, settings=SETTINGS, deleted=False)
OLD = later(1000)
GONE = later(1000 + GRACE)

REFERENCES: dict[str, list[str]] = {
    "libc": [],
    "zlib": ["libc"],
    "curl": ["zlib", "libc"],
    "bash": ["libc"],
    "app": ["curl", "bash"],
}


@pytest.fixture(params=BACKENDS)
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog(request.param, tmp_path) as catalog:
        yield catalog


@pytest.fixture
async def closure(catalog: SqlCatalog) -> None:
    for name, references in REFERENCES.items():
        await catalog.objects.publish(publication(CACHE, name, references), now=NOW)


@pytest.fixture
def deleted() -> list[str]:
    return []


@pytest.fixture
def collector(catalog: SqlCatalog, deleted: list[str]) -> Collector:
    async def delete(keys: Sequence[str]) -> Collection[str]:
        deleted.extend(keys)
        return ()

    return Collector(catalog.collection, catalog.garbage, delete, batch=2)


async def here(catalog: SqlCatalog, cache: CacheId = CACHE) -> dict[str, ObjectState]:
    found = await catalog.objects.page(cache, None, 100)
    return {one.path_info.store_path.name: one.state for one in found}


def keys(*names: str) -> list[str]:
    return sorted(nar_file(name).blob_key for name in names)


def static(*names: str) -> list[str]:
    """What other programs read of these."""
    return sorted(f"default/{hash_part(name)}.narinfo" for name in names)


async def test_an_unused_closure_goes_as_one_after_its_grace(
    catalog: SqlCatalog, closure: None, collector: Collector, deleted: list[str]
) -> None:
    assert await collector.collect(SCOPE, later(999)) == Collected()
    assert (await collector.collect(SCOPE, OLD)).condemned == 5
    assert set((await here(catalog)).values()) == {ObjectState.CONDEMNED}
    assert (await collector.collect(SCOPE, later(1000 + GRACE - 1))).removed == 0
    done = await collector.collect(SCOPE, GONE)
    assert (done.removed, done.removed_size, done.revived) == (5, 500, 0)
    assert await here(catalog) == {}
    assert deleted == []
    assert (await collector.empty_garbage(GONE)).deleted == 10
    assert sorted(deleted[:5]) == static(*REFERENCES), "what names bytes goes before the bytes"
    assert sorted(deleted[5:]) == keys(*REFERENCES)
    assert (await collector.run(GONE)).deleted == 0


@pytest.mark.parametrize("kept", ["app", "curl", "zlib"])
@pytest.mark.parametrize("by", ["use", "pin", "lease"])
async def test_what_keeps_a_path_keeps_all_it_references_and_nothing_else(
    catalog: SqlCatalog, closure: None, collector: Collector, kept: str, by: str
) -> None:
    if by == "use":
        await catalog.objects.used({(CACHE, hash_part(kept)): OLD})
    elif by == "pin":
        await catalog.pins.set(CACHE, P, store_path(kept), set_by="", now=NOW)
    else:
        await catalog.objects.present(CACHE, "session", [hash_part(kept)], now=NOW)
    await collector.collect(SCOPE, OLD)
    await collector.collect(SCOPE, GONE)
    expected = {kept}
    for name in reversed(REFERENCES):
        if name in expected:
            expected.update(REFERENCES[name])
    assert (await here(catalog)).keys() == expected


async def test_a_condemned_closure_is_revived_by_a_use_of_its_top(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    await collector.collect(SCOPE, OLD)
    await catalog.objects.used({(CACHE, hash_part("curl")): later(1001)})
    states = await here(catalog)
    revived = {name for name, state in states.items() if state is ObjectState.PUBLISHED}
    assert revived == {"curl", "zlib", "libc"}
    assert (await collector.collect(SCOPE, GONE)).removed == 2
    assert (await here(catalog)).keys() == revived


async def test_an_object_that_was_revived_is_given_its_whole_grace_again(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    """In niks3 a revived object kept the time of its first condemnation, and went at once at the second."""
    await collector.collect(SCOPE, OLD)
    await catalog.objects.used({(CACHE, hash_part("app")): OLD})
    again = later(2000)
    assert (await collector.collect(SCOPE, again)).condemned == 5
    assert (await collector.collect(SCOPE, later(2000 + GRACE - 1))).removed == 0
    assert (await collector.collect(SCOPE, later(2000 + GRACE))).removed == 5


@pytest.mark.parametrize("condemned_first", [True, False])
async def test_an_object_that_is_shown_again_is_given_its_whole_grace(
    catalog: SqlCatalog, closure: None, collector: Collector, *, condemned_first: bool
) -> None:
    """A path that was condemned and hidden for a lost file went in the second in which that file came again."""
    lost = nar_file("zlib")
    if condemned_first:
        await collector.collect(SCOPE, OLD)
    await catalog.nars.quarantine(lost.file_hash, "lost", now=OLD)
    await collector.collect(SCOPE, OLD)
    await catalog.repairs.restore(lost.file_hash, now=GONE)
    assert (await collector.collect(SCOPE, GONE)).removed == 0
    assert (await collector.collect(SCOPE, later(1000 + 2 * GRACE - 1))).removed == 0
    assert (await collector.collect(SCOPE, later(1000 + 2 * GRACE))).removed == 5
    assert await catalog.repairs.wrong_totals() == []


async def test_what_is_published_revives_what_it_references(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    await collector.collect(SCOPE, OLD)
    published = await catalog.objects.publish(publication(CACHE, "new", ["zlib"]), now=OLD)
    assert published.state is ObjectState.PUBLISHED
    await collector.collect(SCOPE, GONE)
    assert (await here(catalog)).keys() == {"new", "zlib", "libc"}


async def test_a_lease_ends_with_its_session_or_a_day_after_its_last_sign_of_life(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    for number, how in enumerate(("end", "silence")):
        session, now = f"s{number}", later(number * 200_000)
        await catalog.objects.present(CACHE, session, [hash_part("app")], now=now)
        in_time = Timestamp(now + SESSION_SECONDS - 1)
        assert (await collector.collect(SCOPE, in_time)).condemned == 0
        if how == "end":
            gone = Session(id=session, cache=CACHE, principal="", begun=now, seen=in_time)
            await catalog.uploads.session(gone, end=True)
            await catalog.objects.used({(CACHE, hash_part("app")): in_time})
            end = Timestamp(in_time + 1000)
        else:
            end = Timestamp(now + SESSION_SECONDS)
        # The lease counted as a use when it was last seen to keep the closure.
        done = await collector.collect(SCOPE, Timestamp(end + 1000))
        assert done.condemned == 5


async def test_revisions_of_a_pin_keep_as_its_rule_says(catalog: SqlCatalog, collector: Collector) -> None:
    names = ["r1", "r2", "r3", "r4"]
    for number, name in enumerate(names):
        await catalog.objects.publish(publication(CACHE, name), now=NOW)
        rule = PinRuleChange(keep_revisions=2, keep_seconds=500)
        await catalog.pins.set(CACHE, RELEASE, store_path(name), rule, set_by="", now=later(number * 400))
    candidates = await catalog.collection.candidates(CACHE, None, 10, now=later(800))
    assert {one.hash_part for one in candidates if not one.pinned} == hash_parts(["r1"])
    candidates = await catalog.collection.candidates(CACHE, None, 10, now=later(10_000))
    assert {one.hash_part for one in candidates if not one.pinned} == hash_parts(["r1", "r2"])
    forever = PinRuleChange(keep_revisions=1, keep_forever=True)
    await catalog.pins.set(CACHE, RELEASE, store_path("r4"), forever, set_by="", now=later(10_000))
    candidates = await catalog.collection.candidates(CACHE, None, 10, now=later(10_000))
    assert all(one.pinned for one in candidates)


async def test_files_that_another_object_has_stay(
    catalog: SqlCatalog, collector: Collector, deleted: list[str]
) -> None:
    await catalog.objects.publish(publication(CACHE, "a", nar="same"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "b", nar="same"), now=NOW)
    await catalog.objects.used({(CACHE, hash_part("b")): OLD})
    await collector.run(OLD)
    await collector.collect(SCOPE, OLD)
    await collector.collect(SCOPE, GONE)
    await collector.empty_garbage(GONE)
    assert (await here(catalog)).keys() == {"b"}
    assert deleted == static("a")


async def test_documents_go_with_the_last_object_that_has_them(
    catalog: SqlCatalog, collector: Collector, deleted: list[str]
) -> None:
    log = Document(kind=DocumentKind.LOG, name="x.drv", size=1, blob_key="log/x.drv")
    for name in ("a", "b"):
        given = replace(publication(CACHE, name), documents=(log,))
        await catalog.objects.publish(given, now=NOW)
    await catalog.objects.used({(CACHE, hash_part("b")): OLD})
    for now in (OLD, GONE):
        await collector.collect(SCOPE, now)
    assert await catalog.objects.document(CACHE, DocumentKind.LOG, "x.drv") == log
    for now in (later(2000), later(2000 + GRACE)):
        await collector.collect(SCOPE, now)
    assert await catalog.objects.document(CACHE, DocumentKind.LOG, "x.drv", pending=True) is None
    await collector.empty_garbage(later(2000 + GRACE))
    assert sorted(deleted) == sorted(["log/x.drv", *keys("a", "b"), *static("a", "b")])


async def test_a_dead_push_leaves_nothing(catalog: SqlCatalog, collector: Collector, deleted: list[str]) -> None:
    listing = Document(kind=DocumentKind.LISTING, name=hash_part("never"), size=1, blob_key="default/never.ls")
    await catalog.uploads.expect(CACHE, "s", nar_file("begun").file_hash, nar_file("begun").blob_key, now=NOW)
    await receive(catalog, CACHE, "s", nar_file("whole"), now=NOW)
    await catalog.uploads.attach(CACHE, "s", listing, hash_parts(["never"]), now=NOW)
    waiting = publication(CACHE, "waits", ["missing"], session="s")
    await receive(catalog, CACHE, "s", waiting.file, now=NOW)
    await catalog.objects.publish(waiting, now=NOW)
    assert await collector.sweep(later(WAITING_SECONDS - 1)) == Collected()
    assert await collector.sweep(later(WAITING_SECONDS)) == Collected(waited=1)
    assert await catalog.objects.waiting(CACHE, hash_part("waits")) is None
    assert await collector.sweep(later(SESSION_SECONDS - 1)) == Collected()
    assert await catalog.uploads.find(CACHE, nar_file("whole").file_hash) is not None
    assert await collector.sweep(later(SESSION_SECONDS)) == Collected(swept=1, swept_files=2)
    assert await catalog.uploads.find(CACHE, nar_file("whole").file_hash) is None
    await collector.empty_garbage(later(SESSION_SECONDS))
    assert sorted(deleted) == sorted(["default/never.ls", *keys("begun", "whole", "waits"), *static("waits")])


async def test_a_dead_push_leaves_what_another_one_has_brought_as_well(
    catalog: SqlCatalog, collector: Collector, deleted: list[str]
) -> None:
    """It took the file of a push that lived on, and its long listing: that path was published without one."""
    file = nar_file("both")
    assert file.nar_hash is not None
    listing = Document(kind=DocumentKind.LISTING, name=file.nar_hash.nix32, size=1, blob_key="nar/both.ls")
    for session, seen in (("lives", later(9)), ("dies", NOW)):
        await catalog.uploads.attach(CACHE, session, listing, (), now=seen)
        await receive(catalog, CACHE, session, file, now=seen)
    assert await collector.sweep(later(SESSION_SECONDS)) == Collected(swept=1)
    assert await catalog.uploads.find(CACHE, file.file_hash) == file
    await collector.empty_garbage(later(SESSION_SECONDS))
    assert deleted == []
    assert await collector.sweep(later(9 + SESSION_SECONDS)) == Collected(swept=1, swept_files=1)
    await collector.empty_garbage(later(9 + SESSION_SECONDS))
    assert sorted(deleted) == sorted(["nar/both.ls", *keys("both")])


async def test_the_log_of_a_derivation_that_is_never_pushed_goes_with_the_outputs(
    catalog: SqlCatalog, collector: Collector, deleted: list[str]
) -> None:
    """The log waited for the derivation for ever, after everything that was built by it had gone."""
    log = Document(kind=DocumentKind.LOG, name=f"{hash_part('drv')}-x.drv", size=1, blob_key="log/x.drv")
    await catalog.uploads.attach(CACHE, "s", log, hash_parts(["drv"]), now=NOW)
    output = publication(CACHE, "a")
    info = replace(output.path_info, deriver=StorePath(log.name))
    await catalog.objects.publish(replace(output, path_info=info), now=NOW)
    await collector.sweep(later(SESSION_SECONDS))
    assert await catalog.objects.document(CACHE, DocumentKind.LOG, log.name) == log
    for now in (later(SESSION_SECONDS), later(SESSION_SECONDS + GRACE)):
        await collector.collect(SCOPE, now)
    assert await catalog.objects.document(CACHE, DocumentKind.LOG, log.name, pending=True) is None
    await collector.empty_garbage(later(SESSION_SECONDS + GRACE))
    assert sorted(deleted) == sorted(["log/x.drv", *keys("a"), *static("a")])


async def test_what_waits_for_a_week_goes_although_its_push_lives_on(
    catalog: SqlCatalog, collector: Collector, deleted: list[str]
) -> None:
    """A token that pushes every day to the same URL is one push without an end: nothing that it left was swept."""
    lost = Document(kind=DocumentKind.LOG, name="lost.drv", size=1, blob_key="log/lost.drv")
    seen = Document(kind=DocumentKind.LOG, name="seen.drv", size=1, blob_key="log/seen.drv")
    await receive(catalog, CACHE, "s", nar_file("lost"), now=NOW)
    await catalog.uploads.attach(CACHE, "s", lost, hash_parts(["never"]), now=NOW)
    await catalog.uploads.attach(CACHE, "s", seen, hash_parts(["a"]), now=NOW)
    await receive(catalog, CACHE, "s", nar_file("a"), now=NOW)
    await catalog.objects.publish(replace(publication(CACHE, "a"), session="s"), now=NOW)
    last = later(UNCLAIMED_SECONDS - 1)
    await receive(catalog, CACHE, "s", nar_file("new"), now=last)
    assert await collector.sweep(last) == Collected()
    assert await collector.sweep(later(UNCLAIMED_SECONDS)) == Collected(swept_files=1)
    assert await catalog.uploads.find(CACHE, nar_file("lost").file_hash) is None
    assert await catalog.uploads.find(CACHE, nar_file("new").file_hash) is not None
    assert await catalog.objects.document(CACHE, DocumentKind.LOG, "lost.drv", pending=True) is None
    assert await catalog.objects.document(CACHE, DocumentKind.LOG, "seen.drv") == seen
    await collector.empty_garbage(later(UNCLAIMED_SECONDS))
    assert sorted(deleted) == sorted(["log/lost.drv", *keys("lost")])


async def test_room_is_made_from_the_roots_down_the_longest_unused_first(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    await catalog.objects.publish(publication(CACHE, "lone"), now=later(-10))
    await catalog.objects.publish(publication(CACHE, "fresh", ["bash"]), now=later(10))
    assert await make_room([(collector, SCOPE)], 150, later(20)) == (2, 200)
    condemned = {name for name, state in (await here(catalog)).items() if state is ObjectState.CONDEMNED}
    assert condemned == {"lone", "app"}
    assert await make_room([(collector, SCOPE)], 10_000, later(20)) == (5, 500)
    assert (await collector.remove(SCOPE, later(20), later(20))).removed == 7
    assert await here(catalog) == {}


async def test_room_is_made_in_all_caches_by_age(catalog: SqlCatalog, collector: Collector) -> None:
    other = (await catalog.caches.create(CacheName("other"), SETTINGS, declared=False, now=NOW)).id
    for number in range(6):
        cache = (CACHE, other)[number % 2]
        await catalog.objects.publish(publication(cache, f"n{number}"), now=later(number))
    scopes = [SCOPE, replace(SCOPE, cache=other)]
    assert await make_room([(collector, scope) for scope in scopes], 250, later(20)) == (3, 300)
    states = {**await here(catalog), **await here(catalog, other)}
    assert {name for name, state in states.items() if state is ObjectState.CONDEMNED} == {"n0", "n1", "n2"}


async def test_room_is_made_for_what_has_come_and_is_not_published(catalog: SqlCatalog) -> None:
    """A cache that was full but for some bytes refused every push for a day: nothing of it went.

    It was not over its limit, and with files that pushes had brought before they were cut it had no room for another.
    After a day such files are swept.
    """

    async def delete_nothing(_keys: Sequence[str]) -> list[str]:
        return []

    settings = CacheSettings(max_size=1000, grace=0)
    team = (await catalog.caches.create(CacheName("team"), settings, declared=False, now=NOW)).id
    for number in range(9):
        await catalog.objects.publish(publication(team, f"n{number}"), now=later(number))
    for name in ("came", "came-too"):
        await receive(catalog, team, "cut", nar_file(name), now=later(10))
    await Collector(catalog.collection, catalog.garbage, delete_nothing, sizes=catalog.objects).run(later(20))
    size = await catalog.objects.size(team)
    assert size.incoming_size == 200
    assert size.size + size.incoming_size < 1000
    assert {"n7", "n8"} <= (await here(catalog, team)).keys()


async def test_of_files_that_found_no_room_the_largest_is_wanted_until_one_as_large_comes(
    catalog: SqlCatalog,
) -> None:
    wanted = catalog.room_wanted
    assert await wanted.wanted(CACHE, now=NOW) == 0
    for size in (2**40, 5):
        await wanted.want(CACHE, size, now=NOW)
    assert await wanted.wanted(CACHE, now=NOW) == 2**40
    assert await wanted.wanted(None, now=NOW) == 0, "of all caches together nothing was said"
    await wanted.want(None, 7, now=NOW)
    await wanted.settle(CACHE, 2**40 - 1)
    assert await wanted.wanted(CACHE, now=NOW) == 2**40
    await wanted.settle(CACHE, 2**40)
    assert (await wanted.wanted(CACHE, now=NOW), await wanted.wanted(None, now=NOW)) == (0, 7)


async def test_what_found_no_room_is_wanted_for_a_limited_time(catalog: SqlCatalog) -> None:
    """What is wanted again meanwhile makes that no longer: a client that will never come has its room no more."""
    wanted = catalog.room_wanted
    await wanted.want(CACHE, 100, now=NOW)
    await wanted.want(CACHE, 100, now=later(WANTED_SECONDS - 1))
    assert await wanted.wanted(CACHE, now=later(WANTED_SECONDS - 1)) == 100
    assert await wanted.wanted(CACHE, now=later(WANTED_SECONDS)) == 0
    await wanted.want(CACHE, 10, now=later(WANTED_SECONDS))
    assert await wanted.wanted(CACHE, now=later(WANTED_SECONDS)) == 10


@pytest.mark.parametrize(("size", "left"), [(0, 9), (100, 9), (150, 7), (1000, 2), (1001, 9)], ids=str)
async def test_the_longest_unused_go_until_a_file_that_found_no_room_fits(
    catalog: SqlCatalog, size: int, left: int
) -> None:
    """A cache just below its limit refused a large file for ever: the collector made room only for what had come."""

    async def delete_nothing(_keys: Sequence[str]) -> list[str]:
        return []

    settings = CacheSettings(max_size=1000, grace=0)
    team = (await catalog.caches.create(CacheName("team"), settings, declared=False, now=NOW)).id
    for number in range(9):
        await catalog.objects.publish(publication(team, f"n{number}"), now=later(number))
    for pinned in ("n0", "n8"):
        await catalog.pins.set(team, PinName(pinned), store_path(pinned), set_by="tests", now=NOW)
    if size:
        await catalog.room_wanted.want(team, size, now=NOW)
    collector = Collector(
        catalog.collection, catalog.garbage, delete_nothing, sizes=catalog.objects, wanted=catalog.room_wanted
    )
    for _ in range(2):
        await collector.run(later(20))
        stays = await here(catalog, team)
        assert len(stays) == left
        assert {"n0", "n8"} <= stays.keys(), "what is pinned stays"


async def test_documents_without_objects_go_when_room_is_made(
    catalog: SqlCatalog, collector: Collector, deleted: list[str]
) -> None:
    for number, name in enumerate(("old", "new")):
        log = Document(kind=DocumentKind.LOG, name=f"{name}.drv", size=1, blob_key=f"{name}.log")
        await catalog.uploads.attach(CACHE, None, log, [], now=later(number * 10))
    await catalog.objects.publish(publication(CACHE, "a"), now=later(5))
    await collector.sweep(later(10 * SESSION_SECONDS))
    await make_room([(collector, SCOPE)], 1, later(20))
    await collector.empty_garbage(later(20))
    assert deleted == ["old.log"]


async def test_all_of_a_deleted_cache_goes_and_then_the_cache(catalog: SqlCatalog, collector: Collector) -> None:
    row = await catalog.caches.create(CacheName("team"), SETTINGS, declared=False, now=NOW)
    for name, references in REFERENCES.items():
        await receive(catalog, row.id, "s", nar_file(name), now=NOW)
        await catalog.objects.publish(publication(row.id, name, references, session="s"), now=NOW)
    await catalog.objects.present(row.id, "s", hash_parts(REFERENCES), now=NOW)
    await catalog.pins.set(row.id, P, store_path("app"), PinRuleChange(keep_forever=True), set_by="", now=NOW)
    await collector.run(NOW)
    assert len(await here(catalog, row.id)) == 5
    await catalog.caches.delete(CacheName("team"), now=NOW)
    assert (await collector.run(NOW)).removed == 5
    assert row.id in [scope.cache for scope in await catalog.collection.scopes(None, 100)]
    await collector.run(later(SESSION_SECONDS))
    assert row.id not in [scope.cache for scope in await catalog.collection.scopes(None, 100)]


async def test_bytes_that_cannot_be_deleted_are_tried_again_later(catalog: SqlCatalog) -> None:
    broken = True

    async def delete(blob_keys: Sequence[str]) -> Collection[str]:
        return blob_keys[:1] if broken else ()

    collector = Collector(catalog.collection, catalog.garbage, delete)
    for name in ("a", "b"):
        await catalog.objects.publish(publication(CACHE, name), now=NOW)
    for now in (OLD, GONE):
        await collector.collect(SCOPE, now)
    assert (await collector.empty_garbage(GONE)).deleted == 3
    assert (await collector.empty_garbage(GONE)).deleted == 0
    broken = False
    assert (await collector.empty_garbage(Timestamp(GONE + 60))).deleted == 1


async def test_nothing_to_collect_ends_no_ready_answer(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    before = catalog.database.generation(Topic.REMOVALS)
    await collector.run(later(1))
    assert catalog.database.generation(Topic.REMOVALS) == before
    await collector.collect(SCOPE, OLD)
    assert catalog.database.generation(Topic.REMOVALS) != before


async def test_the_reason_for_which_a_path_is_kept_is_found_in_the_catalog(catalog: SqlCatalog, closure: None) -> None:
    async def reason(name: str) -> WhyKept | None:
        plan = why_kept(HashPart(hash_part(name)), OLD)
        level = next(plan)
        while True:
            keepers = await catalog.objects.keepers(CACHE, level, 100, now=OLD)
            try:
                level = plan.send(keepers)
            except StopIteration as stop:
                found: WhyKept | None = stop.value
                return found

    assert await reason("libc") is None
    await catalog.pins.set(CACHE, RELEASE, store_path("app"), set_by="", now=NOW)
    path = tuple(map(hash_part, ("app", "bash", "libc")))
    found = await reason("libc")
    assert found is not None
    assert (found.by, found.name, len(found.path)) == (KeptBy.PIN, "release", len(path))
    await catalog.objects.present(CACHE, "push", [hash_part("zlib")], now=NOW)
    leased = await reason("zlib")
    assert leased == WhyKept(path=(hash_part("zlib"),), by=KeptBy.SESSION, name="push")


@pytest.mark.parametrize("reason", Reason)
async def test_what_is_kept_is_not_condemned_for_any_reason(catalog: SqlCatalog, closure: None, reason: Reason) -> None:
    condemned = await catalog.collection.condemn(CACHE, hash_parts(["libc", "curl"]), reason, unused_since=NOW, now=NOW)
    assert condemned.objects == frozenset()
    condemned = await catalog.collection.condemn(CACHE, hash_parts(["app"]), reason, unused_since=later(-1), now=NOW)
    assert condemned.objects == frozenset()
    condemned = await catalog.collection.condemn(CACHE, hash_parts(["app"]), reason, unused_since=NOW, now=NOW)
    assert condemned.objects == hash_parts(["app"])
    assert {one.hash_part for one in condemned.next} == hash_parts(["curl", "bash"])


# Deletion by hand


async def delete(catalog: SqlCatalog, *names: str) -> Deleted:
    return await catalog.deletions.delete(CACHE, hash_parts(names), deleted_by="admin", now=NOW)


async def test_what_is_deleted_is_gone_and_its_file_becomes_garbage(catalog: SqlCatalog, closure: None) -> None:
    gone = await delete(catalog, "app")
    assert (gone.paths, gone.size, gone.obstacles) == ((store_path("app"),), 100, ())
    assert gone.references == hash_parts(["curl", "bash"])
    assert set(await here(catalog)) == set(REFERENCES) - {"app"}
    assert set(await catalog.garbage.claim(10, now=NOW)) == {*keys("app"), *static("app")}
    assert await delete(catalog, "app") == Deleted()


async def test_what_anything_references_is_not_deleted_by_hand(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    [obstacle] = (await delete(catalog, "libc")).obstacles
    assert set(obstacle.referrers) == {store_path(name) for name in ("zlib", "curl", "bash")}
    await catalog.objects.publish(publication(CACHE, "waits", ["app", "absent"]), now=NOW)
    [obstacle] = (await delete(catalog, "app")).obstacles
    assert obstacle.referrers == (store_path("waits"),)


async def test_what_a_condemned_path_references_is_not_deleted_as_readers_see_that(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    assert (await collector.collect(SCOPE, OLD)).condemned == 5
    assert (await delete(catalog, "curl")).obstacles
    assert set(await here(catalog)) == set(REFERENCES)
    assert (await delete(catalog, "app")).paths == (store_path("app"),)


async def test_of_a_closure_what_something_else_keeps_stays(catalog: SqlCatalog, closure: None) -> None:
    await catalog.pins.set(CACHE, P, store_path("bash"), set_by="", now=NOW)
    gone = await delete_closure(catalog.deletions, CACHE, hash_part("app"), deleted_by="admin", now=NOW)
    assert set(gone.paths) == {store_path(name) for name in ("app", "curl", "zlib")}
    assert gone.size == 300
    assert set(await here(catalog)) == {"bash", "libc"}
    entries = [one for one in await catalog.audit.page(None, 100) if one.action == "delete"]
    assert {(one.principal, one.subject) for one in entries} == {("admin", path) for path in gone.paths}


async def test_what_a_push_was_told_is_here_is_deleted_only_when_that_is_meant(
    catalog: SqlCatalog, closure: None
) -> None:
    await catalog.objects.present(CACHE, "run", [hash_part("app")], now=NOW)
    [obstacle] = (await delete(catalog, "app")).obstacles
    assert obstacle.sessions == ("run",)
    gone = await catalog.deletions.delete(CACHE, [hash_part("app")], deleted_by="admin", despite_pushes=True, now=NOW)
    assert gone.paths == (store_path("app"),)


async def test_what_went_and_why_is_in_the_audit_log(catalog: SqlCatalog, closure: None, collector: Collector) -> None:
    await collector.collect(SCOPE, OLD)
    assert [one for one in await catalog.audit.page(None, 100) if one.action == "collect"] == []
    await collector.collect(SCOPE, GONE)
    entries = [one for one in await catalog.audit.page(None, 100) if one.action == "collect"]
    assert {one.subject for one in entries} == {store_path(name) for name in REFERENCES}
    assert {json.loads(one.detail)["why"] for one in entries} == {"unused"}
    assert {json.loads(one.detail)["size"] for one in entries} == {100}
    waits = publication(CACHE, "waits", ["absent"])
    await catalog.objects.publish(waits, now=GONE)
    await collector.sweep(Timestamp(GONE + WAITING_SECONDS))
    [last] = [one for one in await catalog.audit.page(None, 100) if one.subject == store_path("waits")]
    assert json.loads(last.detail)["why"] == "waited"


async def test_what_is_condemned_is_listed_in_the_order_in_which_it_goes(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    await collector.collect(SCOPE, OLD)
    found: list[CondemnedObject] = []
    after = None
    while page := await catalog.collection.condemned(CACHE, after, 2):
        found += page
        after = page[-1].place
    names = [one.path.name for one in found]
    assert sorted(names) == sorted(REFERENCES)
    assert all(names.index(name) < names.index(one) for name, others in REFERENCES.items() for one in others)
    assert {(one.reason, one.since, one.size) for one in found} == {(Reason.UNUSED, OLD, 100)}
    assert await catalog.collection.closure_size(CACHE, hash_part("app")) == (5, 500)
    assert await catalog.collection.closure_size(CACHE, hash_part("absent")) == (0, 0)


class RemovedJustBefore:
    """The objects of a catalog whose collector comes between a look at an object and the word that it is used."""

    def __init__(self, objects: Objects, collect: Callable[[], Awaitable[object]]) -> None:
        self._objects = objects
        self._collect = collect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def used(self, last_uses: Mapping[tuple[CacheId, HashPart], Timestamp]) -> None:
        await self._collect()
        await self._objects.used(last_uses)


async def test_a_path_that_is_removed_while_it_is_looked_up_is_not_promised(
    catalog: SqlCatalog, closure: None, collector: Collector
) -> None:
    """A narinfo was answered with 200 and its NAR with 404: the collector had come between the look at a condemned
    path and the word that it is used, which then revived nothing."""
    await collector.collect(SCOPE, OLD)

    async def nothing(_: object) -> Download | None:
        return None

    async def is_here(_key: str) -> bool:
        return True

    objects = RemovedJustBefore(catalog.objects, lambda: collector.collect(SCOPE, GONE))
    source = StoredObjects(
        CACHE,
        objects=objects,
        quarantine=Quarantine(catalog.nars, is_here),
        uses=LastUses(catalog.objects),
        open_blob=nothing,
        open_nar=nothing,
        want_listing=lambda *_: None,
        removals=Changes(lambda: catalog.database.generation(Topic.REMOVALS)),
        clock=lambda: float(GONE),
    )
    assert await source.narinfo(hash_part("app")) is None
    assert await source.narinfo(hash_part("libc")) is None


async def test_at_once_a_pushed_file_is_opened_where_files_can_be_and_counts_as_asked_for(
    catalog: SqlCatalog, closure: None
) -> None:
    async def nothing(_: object) -> Download | None:
        raise AssertionError("nothing is to be opened but at once")

    async def is_here(_key: str) -> bool:
        return True

    opened: list[str] = []

    def open_at_once(key: BlobKey) -> Blob | None:
        opened.append(key)
        return Blob(size=1, metadata={}, pieces=lambda *_: iter(()))

    async def found(name: str, open_at_once: Callable[[BlobKey], Blob | None] | None) -> bool:
        uses = LastUses(catalog.objects)
        source = StoredObjects(
            CACHE,
            objects=catalog.objects,
            quarantine=Quarantine(catalog.nars, is_here),
            uses=uses,
            open_blob=nothing,
            open_nar=nothing,
            want_listing=lambda *_: None,
            removals=Changes(lambda: catalog.database.generation(Topic.REMOVALS)),
            open_at_once=open_at_once,
        )
        stored = await catalog.objects.find(CACHE, hash_part("app"))
        assert stored is not None
        url = NarUrl(hash_part(name), None, stored.file.compression)
        download = await source.nar(url, AT_ONCE)
        return download is not None

    assert await found("app", open_at_once)
    assert len(opened) == 1
    assert not await found("absent", open_at_once)
    with pytest.raises(NotAtOnce):
        await found("app", None)
    with pytest.raises(NotAtOnce):
        await found("app", lambda _: None)


async def test_the_catalog_knows_how_much_there_is_without_counting(catalog: SqlCatalog, collector: Collector) -> None:
    """`max_size` is held against sums that publishing, condemning, reviving and removing keep up to date."""
    for name, references in REFERENCES.items():
        await catalog.objects.publish(publication(CACHE, name, references), now=NOW)
    await catalog.objects.publish(publication(CACHE, "waits", ["absent"]), now=NOW)
    await catalog.objects.publish(publication(CACHE, "absent", []), now=NOW)
    await catalog.objects.publish(publication(CACHE, "bash", ["zlib"], replace=True), now=NOW)
    assert await catalog.repairs.wrong_totals() == []
    await collector.condemn_unused(SCOPE, Reason.UNUSED, OLD, OLD)
    condemned = await catalog.objects.size(CACHE)
    assert condemned.condemned == len(REFERENCES) + 2
    await catalog.objects.used({(CACHE, hash_part("curl")): OLD})
    assert (await catalog.objects.size(CACHE)).condemned == condemned.condemned - 3
    await collector.collect(SCOPE, GONE)
    assert (await catalog.objects.size(CACHE)).objects == 3
    assert await catalog.repairs.wrong_totals() == []


async def test_a_sum_that_is_wrong_is_found_and_put_right(catalog: SqlCatalog, closure: None) -> None:
    right = await catalog.objects.size(CACHE)
    await catalog.database.write(lambda: add_objects(CACHE, ObjectState.PUBLISHED, [1000, 10]))
    assert (await catalog.objects.size(CACHE)).objects == right.objects + 2
    (wrong,) = await catalog.repairs.wrong_totals()
    assert (wrong.cache, wrong.state, wrong.told[1] - wrong.counted[1]) == (CACHE, "published", 1010)
    await catalog.repairs.count_anew()
    assert await catalog.objects.size(CACHE) == right
    assert await catalog.repairs.wrong_totals() == []
