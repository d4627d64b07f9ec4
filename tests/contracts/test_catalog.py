"""What every catalog promises, tried on each database that there is."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from catalogs import (
    BACKENDS,
    NOW,
    hash_part,
    hash_parts,
    later,
    nar_file,
    opened_catalog,
    path_info,
    publication,
    receive,
    store_path,
)
from msgspec.structs import replace

from harmonia_py.cache.access import Action, grants_of
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog import access
from harmonia_py.catalog.access import TokenExists, TokenRow, TooManyTokens
from harmonia_py.catalog.audit import AuditEntry, entry_now
from harmonia_py.catalog.caches import DEFAULT_CACHE, MIRROR, STORE, CacheExists, CacheId, CacheSettings, Timestamp
from harmonia_py.catalog.evidence import Evidence, Judge
from harmonia_py.catalog.keys import KeyExists, KeyRow, KeyState
from harmonia_py.catalog.mirrored import UpstreamNarInfo, UpstreamRealisation
from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.catalog.objects import Document, DocumentKind, ObjectState, Publication, Published, Size
from harmonia_py.catalog.pins import Pin, PinName, PinRule, PinRuleChange
from harmonia_py.catalog.uploads import Session
from harmonia_py.contents.kept_files import Mismatch
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import Topic
from harmonia_py.errors import PushRefused
from harmonia_py.nix.content_address import ContentAddress
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import HashPart

CACHE = DEFAULT_CACHE
OTHER = CacheId(4)


@pytest.fixture(params=BACKENDS)
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog(request.param, tmp_path) as catalog:
        await catalog.caches.create(CacheName("other"), CacheSettings(), declared=False, now=NOW)
        yield catalog


# Caches


async def test_a_cache_has_the_settings_that_it_was_made_with(catalog: SqlCatalog) -> None:
    settings = CacheSettings(public=True, signed_by=("a:b",), keep_unused=60, max_size=2**40, upstreams=("x", "y"))
    made = await catalog.caches.create(CacheName("team"), settings, declared=True, now=NOW)
    assert await catalog.caches.find(CacheName("team")) == made
    assert (made.settings, made.declared, made.created) == (settings, True, NOW)


async def test_of_two_caches_of_one_name_the_second_is_refused(catalog: SqlCatalog) -> None:
    with pytest.raises(CacheExists):
        await catalog.caches.create(CacheName("other"), CacheSettings(), declared=False, now=NOW)


async def test_a_cache_that_is_made_anew_has_nothing_of_the_deleted_one(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(OTHER, "a"), now=NOW)
    assert await catalog.caches.delete(CacheName("other"), now=NOW)
    assert not await catalog.caches.delete(CacheName("other"), now=NOW)
    assert await catalog.caches.find(CacheName("other")) is None
    again = await catalog.caches.create(CacheName("other"), CacheSettings(), declared=False, now=NOW)
    assert again.id != OTHER
    assert await catalog.objects.find(again.id, hash_part("a")) is None


async def test_caches_are_paged_by_name_and_those_without_a_name_are_not_among_them(catalog: SqlCatalog) -> None:
    for number in range(5):
        await catalog.caches.create(CacheName(f"n{number}"), CacheSettings(), declared=False, now=NOW)
    first = await catalog.caches.page(None, 4)
    rest = await catalog.caches.page(first[-1].name, 100)
    assert [row.name for row in (*first, *rest)] == ["default", "n0", "n1", "n2", "n3", "n4", "other"]


async def test_the_oldest_caches_are_told_each_and_the_others_together(catalog: SqlCatalog) -> None:
    """Ten thousand caches with figures of their own would be more than `/metrics` can bear."""
    limited = CacheSettings(max_size=1000)
    made = [
        await catalog.caches.create(CacheName(name), limited, declared=False, now=NOW)
        for name in ("a", "gone", "b", "c")
    ]
    assert await catalog.caches.delete(CacheName("gone"), now=NOW)
    size = publication(OTHER, "x").file.file_size
    for cache, names in ((CACHE, "x"), (OTHER, "xy"), (made[2].id, "z"), (made[3].id, "xyz"), (MIRROR, "x")):
        for name in names:
            await catalog.objects.publish(publication(cache, name), now=NOW)
    kept = await catalog.caches.kept(3)
    assert kept == ([("default", 1, size, None), ("other", 2, 2 * size, None), ("a", 0, 0, 1000)], 4, 4 * size)
    assert (await catalog.caches.kept(5))[1:] == (0, 0)
    assert [await catalog.caches.older(cache.id, 100) for cache in (made[0], made[2], made[3])] == [2, 3, 4]
    assert await catalog.caches.older(made[3].id, 2) == 2


async def test_a_cache_can_be_configured(catalog: SqlCatalog) -> None:
    settings = CacheSettings(priority=7)
    configured = await catalog.caches.configure(CacheName("other"), settings, declared=False)
    assert configured == await catalog.caches.find(CacheName("other"))
    assert configured is not None
    assert configured.settings == settings
    assert await catalog.caches.configure(CacheName("none"), settings, declared=False) is None


async def test_two_changes_of_a_cache_at_once_are_both_kept(catalog: SqlCatalog) -> None:
    """Each read the settings, changed one, and wrote all of them: the first change was lost."""
    other = CacheName("other")
    await asyncio.gather(
        catalog.caches.change(other, {"priority": 7}),
        catalog.caches.change(other, {"grace": 60}),
    )
    row = await catalog.caches.find(other)
    assert row is not None
    assert (row.settings.priority, row.settings.grace) == (7, 60)
    assert await catalog.caches.change(CacheName("none"), {"priority": 7}) is None


async def test_what_the_file_declares_is_not_changed(catalog: SqlCatalog) -> None:
    other = CacheName("other")
    declared = await catalog.caches.configure(other, CacheSettings(priority=3), declared=True)
    assert await catalog.caches.change(other, {"priority": 7}) is None
    assert await catalog.caches.find(other) == declared


# Objects


async def test_what_is_published_is_found_as_it_was(catalog: SqlCatalog) -> None:
    info = replace(
        path_info("a", ["a"]),
        deriver=store_path("a.drv"),
        signatures=(Signature("key", b"x" * 64),),
        ca=ContentAddress.parse("fixed:r:sha256:" + "0" * 52),
    )
    given = replace(publication(CACHE, "a"), path_info=info, verified_ca="fixed:r:sha256:x")
    published = await catalog.objects.publish(given, now=NOW)
    assert published.state is ObjectState.PUBLISHED
    found = await catalog.objects.find(CACHE, hash_part("a"))
    assert found is not None
    assert found.path_info == info
    assert found.file == given.file
    assert (found.verified_ca, found.pushed_by, found.pushed, found.used) == ("fixed:r:sha256:x", "tests", NOW, NOW)
    assert (found.state, found.condemned_since) == (ObjectState.PUBLISHED, None)
    assert await catalog.objects.find(OTHER, hash_part("a")) is None


async def test_an_object_waits_until_its_last_reference_is_there(catalog: SqlCatalog) -> None:
    top = await catalog.objects.publish(publication(CACHE, "top", ["middle"]), now=NOW)
    assert (top.state, top.missing) == (ObjectState.WAITING, hash_parts(["middle"]))
    middle = await catalog.objects.publish(publication(CACHE, "middle", ["a", "b"]), now=NOW)
    assert middle.missing == hash_parts(["a", "b"])
    assert await catalog.objects.waiting(CACHE, hash_part("middle")) == hash_parts(["a", "b"])
    assert (await catalog.objects.publish(publication(CACHE, "a"), now=NOW)).promoted == ()
    assert await catalog.objects.find(CACHE, hash_part("middle")) is None
    assert await catalog.objects.waiting(CACHE, hash_part("middle")) == hash_parts(["b"])
    last = await catalog.objects.publish(publication(CACHE, "b"), now=NOW)
    assert frozenset(last.promoted) == hash_parts(["middle", "top"])
    assert await catalog.objects.find(CACHE, hash_part("top")) is not None
    assert await catalog.objects.waiting(CACHE, hash_part("top")) is None


async def test_what_waits_for_paths_of_the_store_is_told_when_the_last_is_there(catalog: SqlCatalog) -> None:
    async def wait(name: str, references: list[str], awaited: list[str]) -> None:
        others = sorted(set(references) - set(awaited))
        waits = replace(publication(CACHE, name, references, elsewhere=others), awaited=hash_parts(awaited))
        assert (await catalog.objects.publish(waits, now=NOW)).missing == hash_parts(awaited)

    async def arrived(name: str) -> list[str]:
        return [found.path_info.store_path.name for found in await arriving(CACHE, hash_part(name), now=NOW)]

    arriving = catalog.awaiting.arrived
    # The catalog has one of them, and the store does not.
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "seen", ["a"]), now=NOW)
    await wait("middle", ["a", "b", "c"], ["a", "b"])
    await wait("top", ["middle"], ["middle"])
    assert await arrived("a") == []
    assert await arrived("b") == ["middle"]
    assert await arrived("b") == ["middle"], "it was not added, as its server was killed"
    pages = [await catalog.awaiting.page(CACHE, after, 1) for after in (None, *sorted(hash_parts(["middle", "top"])))]
    assert [[found.path_info.store_path.hash_part for found in page] for page in pages] == [
        *([part] for part in sorted(hash_parts(["middle", "top"]))),
        [],
    ]
    assert await arrived("middle") == ["top"]
    assert await catalog.objects.waiting(CACHE, hash_part("middle")) is None
    assert await catalog.uploads.find(CACHE, nar_file("middle").file_hash) is None
    assert await arrived("top") == []
    assert (await catalog.objects.size(CACHE)).waiting == 0
    assert await catalog.objects.find(CACHE, hash_part("seen")) is not None, "what readers see is not touched"


async def test_what_the_store_refuses_waits_no_more_and_the_audit_log_says_so(catalog: SqlCatalog) -> None:
    """It was sent to the nix-daemon every minute for an hour."""
    for name, reference in (("middle", "a"), ("top", "middle")):
        waits = replace(publication(CACHE, name, [reference]), awaited=hash_parts([reference]))
        await catalog.objects.publish(waits, now=NOW)
    await catalog.objects.publish(publication(CACHE, "seen"), now=NOW)
    for name in ("middle", "seen", "none"):
        await catalog.awaiting.forget(CACHE, hash_part(name), now=NOW)
    assert await catalog.objects.waiting(CACHE, hash_part("middle")) is None
    assert await catalog.objects.waiting(CACHE, hash_part("top")) == hash_parts(["middle"])
    assert await catalog.objects.find(CACHE, hash_part("seen")) is not None, "what readers see is not touched"
    assert (await catalog.objects.size(CACHE)).waiting == 1
    entries = await catalog.audit.page(None, 100)
    assert [(entry.subject, json.loads(entry.detail)["why"]) for entry in entries if entry.action == "collect"] == [
        (str(store_path("middle")), "refused")
    ]


async def test_what_was_published_before_and_is_to_go_into_the_store_is_mended_by_its_lost_reference(
    catalog: SqlCatalog,
) -> None:
    """It was broken for ever: it was marked as the local store's to take, which takes what waits alone."""
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "top", ["a"]), now=NOW)
    for name in ("a", "top"):
        await catalog.nars.quarantine(nar_file(name).file_hash, "gone", now=NOW)
    again = replace(publication(CACHE, "top", ["a"]), awaited=hash_parts(["a"]))
    assert (await catalog.objects.publish(again, now=NOW)).missing == hash_parts(["a"])
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    assert await catalog.objects.find(CACHE, hash_part("top")) is not None


async def test_what_waits_for_the_store_is_never_shown_from_the_catalog(catalog: SqlCatalog) -> None:
    """Its references had come into the store, its file was lost and then sent again: it was published, while readers of
    the catalog had none of its references, and its row stayed for ever."""
    waits = replace(publication(CACHE, "top", ["b"]), awaited=hash_parts(["b"]))
    await catalog.objects.publish(waits, now=NOW)
    assert await catalog.objects.waiting(CACHE, hash_part("top")) == hash_parts(["b"])
    assert len(await catalog.awaiting.arrived(CACHE, hash_part("b"), now=NOW)) == 1
    assert await catalog.objects.waiting(CACHE, hash_part("top")) == frozenset()
    file = nar_file("top")
    assert await catalog.nars.quarantine(file.file_hash, "the file is not there", now=NOW) == 0
    await receive(catalog, CACHE, "again", file, now=NOW)
    assert await catalog.objects.find(CACHE, hash_part("top")) is None
    assert (await catalog.objects.size(CACHE)).waiting == 1
    assert len(await catalog.awaiting.arrived(CACHE, hash_part("b"), now=NOW)) == 1
    # Where the cache keeps what is pushed to it from now on, it is published like any other path.
    await catalog.objects.publish(publication(CACHE, "b"), now=NOW)
    assert (await catalog.objects.publish(publication(CACHE, "top", ["b"]), now=NOW)).missing == frozenset()
    assert await catalog.objects.find(CACHE, hash_part("top")) is not None


async def test_a_reference_in_another_cache_is_not_here_unless_the_cache_looks_there(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(OTHER, "a"), now=NOW)
    waits = await catalog.objects.publish(publication(CACHE, "b", ["a"]), now=NOW)
    assert waits.state is ObjectState.WAITING
    looks = await catalog.objects.publish(publication(CACHE, "c", ["a"], elsewhere=["a"]), now=NOW)
    assert looks.state is ObjectState.PUBLISHED


async def test_the_first_nar_of_a_path_stays_and_the_second_is_told(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a", nar="first"), now=NOW)
    second = await catalog.objects.publish(publication(CACHE, "a", nar="second"), now=NOW)
    assert second.first == nar_file("first").nar_hash
    found = await catalog.objects.find(CACHE, hash_part("a"))
    assert found is not None
    assert found.file == nar_file("first")
    # The bytes of the second are named by nothing.
    assert await catalog.garbage.claim(10, now=NOW) == [nar_file("second").blob_key]


async def test_a_nar_takes_the_place_of_another_only_when_that_is_wanted(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a", nar="first"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "a", nar="second", replace=True), now=NOW)
    found = await catalog.objects.find(CACHE, hash_part("a"))
    assert found is not None
    assert found.file == nar_file("second")
    assert await catalog.garbage.claim(10, now=NOW) == [nar_file("first").blob_key]
    again = replace(nar_file("second"), file_hash=Hash.of(b"with another level"), file_size=7, blob_key="nar/other")
    given = replace(publication(CACHE, "a", nar="second", replace=True), file=again)
    await catalog.objects.publish(given, now=NOW)
    found = await catalog.objects.find(CACHE, hash_part("a"))
    assert found is not None
    assert found.file == again


async def test_running_totals_follow_what_the_file_of_an_object_becomes(catalog: SqlCatalog) -> None:
    """A NAR compressed anew under its key, or pushed again after its file was lost, left wrong sums: caches are held to
    `max_size` by these."""
    first = publication(CACHE, "a", replace=True)
    await catalog.objects.publish(first, now=NOW)
    anew = replace(first.file, file_hash=Hash.of(b"with another level"), file_size=300)
    await catalog.objects.publish(replace(first, file=anew), now=NOW)
    assert await catalog.repairs.wrong_totals() == []
    waits = publication(CACHE, "waits", ["late"])
    await catalog.objects.publish(waits, now=NOW)
    await catalog.nars.quarantine(waits.file.file_hash, "gone", now=NOW)
    await catalog.objects.publish(publication(CACHE, "late"), now=NOW)
    await catalog.objects.publish(waits, now=NOW)
    assert await catalog.repairs.wrong_totals() == []


async def test_publishing_again_adds_signatures_and_counts_as_a_use(catalog: SqlCatalog) -> None:
    one, two = Signature("one", b"1" * 64), Signature("two", b"2" * 64)
    for number, signature in enumerate((one, two, one)):
        given = replace(publication(CACHE, "a"), path_info=replace(path_info("a"), signatures=(signature,)))
        await catalog.objects.publish(given, now=later(number))
    found = await catalog.objects.find(CACHE, hash_part("a"))
    assert found is not None
    assert found.path_info.signatures == (one, two)
    assert (found.pushed, found.used) == (NOW, later(2))


async def test_only_what_is_published_is_present(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "waits", ["missing"]), now=NOW)
    await catalog.objects.publish(publication(OTHER, "b"), now=NOW)
    many = [f"absent {number}".replace(" ", "-") for number in range(600)]
    asked = hash_parts(["a", "waits", "b", *many])
    assert await catalog.objects.present(CACHE, "session", asked, now=NOW) == hash_parts(["a"])
    assert await catalog.objects.present(CACHE, "session", [], now=NOW) == frozenset()


async def test_last_uses_never_go_back(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a"), now=later(10))
    key = (CACHE, hash_part("a"))
    for at, used in ((5, 10), (20, 20), (15, 20)):
        await catalog.objects.used({key: later(at), (OTHER, HashPart("0" * 32)): later(at)})
        found = await catalog.objects.find(*key)
        assert found is not None
        assert found.used == later(used)


async def test_a_document_is_seen_when_its_object_is(catalog: SqlCatalog) -> None:
    listing = Document(kind=DocumentKind.LISTING, name=hash_part("a"), size=2, body=b"{}")
    await catalog.uploads.attach(CACHE, "session", listing, hash_parts(["a"]), now=NOW)
    assert await catalog.objects.document(CACHE, DocumentKind.LISTING, hash_part("a")) is None
    assert await catalog.objects.document(CACHE, DocumentKind.LISTING, hash_part("a"), pending=True) == listing
    await catalog.objects.publish(publication(CACHE, "a", ["b"]), now=NOW)
    assert await catalog.objects.document(CACHE, DocumentKind.LISTING, hash_part("a")) is None
    await catalog.objects.publish(publication(CACHE, "b"), now=NOW)
    assert await catalog.objects.document(CACHE, DocumentKind.LISTING, hash_part("a")) == listing
    assert await catalog.objects.document(OTHER, DocumentKind.LISTING, hash_part("a")) is None


@pytest.mark.parametrize("log_first", [True, False])
async def test_the_log_of_a_deriver_goes_with_what_it_built(catalog: SqlCatalog, *, log_first: bool) -> None:
    drv = store_path("a.drv")
    log = Document(kind=DocumentKind.LOG, name=drv, size=3, blob_key=f"log/{drv}")
    built = replace(publication(CACHE, "a"), path_info=replace(path_info("a"), deriver=drv))
    if log_first:
        await catalog.uploads.attach(CACHE, "session", log, [], now=NOW)
        assert await catalog.objects.document(CACHE, DocumentKind.LOG, drv) is None
    await catalog.objects.publish(built, now=NOW)
    if not log_first:
        await catalog.uploads.attach(CACHE, "session", log, [], now=NOW)
    assert await catalog.objects.document(CACHE, DocumentKind.LOG, drv) == log


async def test_objects_are_paged_and_know_what_keeps_them(catalog: SqlCatalog) -> None:
    names = [f"n{number}" for number in range(7)]
    await catalog.objects.publish(publication(CACHE, "base"), now=NOW)
    for name in names:
        await catalog.objects.publish(publication(CACHE, name, ["base"]), now=NOW)
    first = await catalog.objects.page(CACHE, None, 5)
    rest = await catalog.objects.page(CACHE, first[-1].path_info.store_path.hash_part, 5)
    found = [one.path_info.store_path.hash_part for one in (*first, *rest)]
    assert found == sorted(hash_parts([*names, "base"]))
    keepers = await catalog.objects.keepers(CACHE, hash_parts(["base", "absent"]), 100, now=NOW)
    assert keepers.keys() == hash_parts(["base"])
    assert frozenset(keepers[hash_part("base")].referrers) == hash_parts(names)
    few = await catalog.objects.keepers(CACHE, hash_parts(["base"]), 3, now=NOW)
    assert len(few[hash_part("base")].referrers) == 3
    assert await catalog.objects.size(CACHE) == Size(objects=8, size=800, published_size=800)
    assert await catalog.objects.size(None) == Size(objects=8, size=800, published_size=800)
    assert await catalog.objects.size(OTHER) == Size()


# NARs and uploads


async def test_paths_are_told_whatever_their_state(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "waits", ["b"]), now=NOW)
    await catalog.objects.publish(publication(OTHER, "c"), now=NOW)
    names = ["a", "waits", "b", "c"]
    assert await catalog.objects.paths(CACHE, hash_parts(names)) == {
        hash_part(name): store_path(name) for name in names[:2]
    }
    assert await catalog.objects.paths(CACHE, hash_parts(names), shown=True) == {hash_part("a"): store_path("a")}
    assert await catalog.objects.paths(CACHE, ()) == {}


async def test_documents_in_files_are_due_one_after_the_other_and_go_for_a_reason(catalog: SqlCatalog) -> None:
    checks, names = catalog.documents, ["a.drv", "b.drv", "c.drv"]
    for name in names:
        log = Document(kind=DocumentKind.LOG, name=store_path(name), size=5, blob_key=f"cache/log/{store_path(name)}")
        await catalog.uploads.attach(CACHE, None, log, hash_parts([name]), now=NOW)
    short = Document(kind=DocumentKind.LOG, name=store_path("d.drv"), size=2, body=b"in")
    await catalog.uploads.attach(CACHE, None, short, hash_parts(["d.drv"]), now=NOW)
    assert await checks.count() == 3
    [first, second] = await checks.due(2)
    assert first.document.name < second.document.name
    await checks.passed(second)
    [third] = await checks.due(2)
    assert {one.document.name for one in (first, second, third)} == set(map(store_path, names))
    await checks.passed(third)
    assert await checks.due(2) == []
    await checks.passed(None)
    assert await checks.due(9) == [first, second, third]
    assert await checks.drop(second, "it has rotten", now=NOW)
    assert not await checks.drop(second, "it has rotten", now=NOW)
    assert await checks.due(9) == [first, third]
    [entry] = await catalog.audit.page(None, 9)
    assert (entry.action, entry.subject) == ("quarantine", second.document.blob_key)
    assert json.loads(entry.detail) == {"reason": "it has rotten"}
    assert await catalog.garbage.claim(9, now=later(1)) == [second.document.blob_key]


async def test_a_quarantined_file_hides_its_objects_until_it_has_come_again(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await catalog.nars.quarantine(nar_file("a").file_hash, "gone", now=NOW)
    assert await catalog.objects.find(CACHE, hash_part("a")) is None
    assert await catalog.nars.file(nar_file("a").file_hash) is None
    assert await catalog.objects.present(CACHE, "s", hash_parts(["a"]), now=NOW) == frozenset()
    await receive(catalog, CACHE, "s", nar_file("a"), now=NOW)
    assert await catalog.objects.find(CACHE, hash_part("a")) is not None


async def test_an_object_of_a_quarantined_file_can_be_published_with_another(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a", nar="first"), now=NOW)
    await catalog.nars.quarantine(nar_file("first").file_hash, "rotten", now=NOW)
    await catalog.objects.publish(publication(CACHE, "a", nar="second"), now=NOW)
    found = await catalog.objects.find(CACHE, hash_part("a"))
    assert found is not None
    assert found.file == nar_file("second")


async def test_a_file_is_received_before_it_is_checked(catalog: SqlCatalog) -> None:
    checked = nar_file("a")
    received = replace(checked, nar_hash=None, nar_size=None)
    await catalog.uploads.expect(CACHE, "s", checked.file_hash, checked.blob_key, now=NOW)
    assert await catalog.uploads.find(CACHE, checked.file_hash) is None
    await receive(catalog, CACHE, "s", received, now=NOW)
    assert await catalog.uploads.find(CACHE, checked.file_hash) == received
    assert await catalog.uploads.find(OTHER, checked.file_hash) is None
    await catalog.nars.checked(checked, '{"references":[]}')
    assert await catalog.nars.file(checked.file_hash) == checked
    assert checked.nar_hash is not None
    assert await catalog.nars.findings(checked.nar_hash) == '{"references":[]}'
    await catalog.objects.publish(publication(CACHE, "a", session="s"), now=NOW)
    assert await catalog.uploads.find(CACHE, checked.file_hash) == checked
    assert await catalog.uploads.find(OTHER, checked.file_hash) is None


async def test_a_file_is_received_with_what_was_found_in_it(catalog: SqlCatalog) -> None:
    file = nar_file("a")
    await receive(catalog, CACHE, "s", file, findings='{"references":[]}', now=NOW)
    assert await catalog.uploads.find(CACHE, file.file_hash) == file
    assert file.nar_hash is not None
    assert await catalog.nars.findings(file.nar_hash) == '{"references":[]}'


async def test_a_claim_is_held_against_its_file_and_the_paths_in_question(catalog: SqlCatalog) -> None:
    file = nar_file("b")
    info = publication(CACHE, "b", "a").path_info
    asked: list[str] = []

    def in_question(findings: str) -> list[HashPart]:
        asked.append(findings)
        return [hash_part("a"), hash_part("c")]

    assert await catalog.evidence.find(CACHE, file.file_hash, info, in_question) is None
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await receive(catalog, CACHE, "s", file, findings="{}", now=NOW)
    evidence = await catalog.evidence.find(CACHE, file.file_hash, info, in_question)
    assert evidence is not None
    assert (evidence.file, evidence.findings) == (file, "{}")
    assert list(evidence.paths) == [hash_part("a")]
    assert asked == ["{}"]
    assert await catalog.evidence.find(OTHER, file.file_hash, info, in_question) is None


async def test_a_push_whose_file_has_gone_meanwhile_publishes_nothing(catalog: SqlCatalog) -> None:
    """Between the look at the evidence and the publication its session had ended: a narinfo led to no NAR."""
    with pytest.raises(BeingDeleted):
        await catalog.objects.publish(publication(CACHE, "b", session="s"), now=NOW)
    assert await catalog.objects.find(CACHE, hash_part("b")) is None


class TestPublishingByTheEvidence:
    file = nar_file("b")
    publication = publication(CACHE, "b", "a")

    async def publish(self, catalog: SqlCatalog, judge: Judge, findings: str = "{}") -> Published | None:
        await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
        await receive(catalog, CACHE, "s", self.file, findings=findings, now=NOW)
        return await catalog.evidence.publish(
            CACHE, self.file.file_hash, self.publication.path_info, lambda _: [hash_part("a")], judge, now=NOW
        )

    async def test_what_is_found_right_is_published_at_once(self, catalog: SqlCatalog) -> None:
        seen: list[Evidence] = []

        def judge(evidence: Evidence) -> Publication:
            seen.append(evidence)
            return self.publication

        published = await self.publish(catalog, judge)
        assert published == Published(state=ObjectState.PUBLISHED)
        assert [(one.file, one.findings, list(one.paths)) for one in seen] == [(self.file, "{}", [hash_part("a")])]
        assert await catalog.objects.find(CACHE, hash_part("b")) is not None

    async def test_what_is_refused_is_not_there(self, catalog: SqlCatalog) -> None:
        def judge(_: Evidence) -> Publication:
            raise PushRefused("NarHash")

        with pytest.raises(PushRefused, match="NarHash"):
            await self.publish(catalog, judge)
        assert await catalog.objects.find(CACHE, hash_part("b")) is None

    async def test_what_has_to_be_asked_elsewhere_waits_for_that(self, catalog: SqlCatalog) -> None:
        assert await self.publish(catalog, lambda _: None) is None
        assert await catalog.objects.find(CACHE, hash_part("b")) is None

    async def test_no_writer_waits_for_a_look_at_thousands_of_paths(self, catalog: SqlCatalog) -> None:
        assert await self.publish(catalog, lambda _: self.publication, findings="x" * 100_000) is None
        assert await catalog.objects.find(CACHE, hash_part("b")) is None

    async def test_a_file_that_is_not_here_is_no_evidence(self, catalog: SqlCatalog) -> None:
        info, file_hash = self.publication.path_info, self.file.file_hash
        published = await catalog.evidence.publish(
            CACHE, file_hash, info, lambda _: [], lambda _: self.publication, now=NOW
        )
        assert published is None


async def test_a_path_that_is_published_with_the_same_nar_stands_for_a_file_that_is_gone(catalog: SqlCatalog) -> None:
    file, gone = nar_file("a"), nar_file("other")
    info = publication(CACHE, "a").path_info
    await receive(catalog, CACHE, "s", file, findings="{}", now=NOW)
    await catalog.objects.publish(publication(CACHE, "a", session="s"), now=NOW)
    evidence = await catalog.evidence.find(CACHE, gone.file_hash, info, lambda _: [])
    assert evidence is not None
    assert evidence.file == file
    assert gone.nar_hash is not None
    another = replace(info, nar_hash=gone.nar_hash)
    assert await catalog.evidence.find(CACHE, gone.file_hash, another, lambda _: []) is None


@pytest.mark.parametrize("its_bytes", ["are listed for deletion", "are being deleted"])
async def test_a_path_that_is_published_stands_for_a_file_that_goes_before_it_is_published_again(
    catalog: SqlCatalog, its_bytes: str
) -> None:
    """409, "has just been deleted", for a path that was there: the session that had brought the file had ended."""
    first = publication(CACHE, "a", session="s")
    file_hash = Hash.of(b"another compression")
    second = replace(first.file, file_hash=file_hash, blob_key=f"nar/{file_hash.nix32}.nar.zst")
    await receive(catalog, CACHE, "s", first.file, findings="{}", now=NOW)
    await catalog.objects.publish(first, now=NOW)
    await receive(catalog, CACHE, "t", second, findings="{}", now=NOW)
    session = Session(id="t", cache=CACHE, principal="token ci", begun=NOW, seen=NOW)
    await catalog.uploads.session(session, end=True)
    if its_bytes == "are being deleted":
        assert await catalog.garbage.claim(9, now=NOW) == [second.blob_key]
    published = await catalog.objects.publish(replace(first, file=second, session="u"), now=later(1))
    assert (published.state, published.first) == (ObjectState.PUBLISHED, None)
    found = await catalog.objects.find(CACHE, hash_part("a"))
    assert found is not None
    assert found.file == first.file
    assert await catalog.garbage.claim(9, now=later(1)) == [second.blob_key]


async def test_a_session_lives_on_with_what_it_brings(catalog: SqlCatalog) -> None:
    async def seen() -> Timestamp:
        session = await catalog.sessions.find("s")
        assert session is not None
        assert session.ended is None
        return session.seen

    file = nar_file("a")
    for at in (NOW, later(0), later(1), later(7200)):
        await catalog.uploads.expect(CACHE, "s", file.file_hash, file.blob_key, now=at)
        assert await seen() == at
    await receive(catalog, CACHE, "s", file, now=later(9000))
    assert await seen() == later(9000)
    await catalog.uploads.session(
        Session(id="s", cache=CACHE, principal="token ci", begun=NOW, seen=later(9001)), end=True
    )
    await receive(catalog, CACHE, "s", file, now=later(9002))
    assert await seen() == later(9002)


async def test_a_session_lives_on_with_each_sign_of_life(catalog: SqlCatalog) -> None:
    begun = Session(id="s", cache=CACHE, principal="token ci", begun=NOW, seen=NOW)
    assert await catalog.uploads.session(begun) == begun
    seen = await catalog.uploads.session(replace(begun, seen=later(5)))
    assert seen == replace(begun, seen=later(5))
    ended = await catalog.uploads.session(replace(begun, seen=later(9)), end=True)
    assert ended == replace(begun, seen=later(9), ended=later(9))


async def test_what_a_session_is_to_forget_is_named_no_more_and_not_deleted(catalog: SqlCatalog) -> None:
    mine, ours, published = nar_file("mine"), nar_file("ours"), nar_file("a")
    await receive(catalog, CACHE, "other", ours, findings="{}", now=NOW)
    for file in (mine, ours, published):
        await receive(catalog, CACHE, "s", file, findings="{}", now=NOW)
    await catalog.objects.publish(publication(CACHE, "a", session="s"), now=NOW)
    await catalog.uploads.forget("s", now=NOW)
    assert await catalog.nars.file(mine.file_hash) is None
    assert await catalog.uploads.find(CACHE, ours.file_hash) == ours, "another session has brought it as well"
    assert await catalog.uploads.find(CACHE, published.file_hash) == published
    session = Session(id="s", cache=CACHE, principal="token ci", begun=NOW, seen=later(1))
    await catalog.uploads.session(session, end=True)
    assert mine.blob_key not in await catalog.garbage.claim(10, now=later(9))
    assert list(await catalog.repairs.unnamed([mine.blob_key])) == [mine.blob_key]


async def test_under_a_key_that_is_being_deleted_nothing_is_written(catalog: SqlCatalog) -> None:
    key = nar_file("second").blob_key
    await catalog.objects.publish(publication(CACHE, "a", nar="first"), now=NOW)
    for _ in range(2):
        await catalog.objects.publish(publication(CACHE, "a", nar="second"), now=NOW)  # its bytes become garbage
        await catalog.nars.reserve(key)  # and are wanted again, in time
        assert await catalog.garbage.claim(10, now=NOW) == []
    await catalog.objects.publish(publication(CACHE, "a", nar="second"), now=NOW)
    assert await catalog.garbage.claim(10, now=NOW) == [key]
    with pytest.raises(BeingDeleted):
        await catalog.nars.reserve(key)
    with pytest.raises(BeingDeleted):
        await catalog.uploads.expect(CACHE, "s", nar_file("second").file_hash, key, now=NOW)
    with pytest.raises(BeingDeleted):
        await catalog.objects.publish(publication(CACHE, "b", nar="second"), now=NOW)
    await catalog.garbage.postpone([key], later(60))
    assert await catalog.garbage.claim(10, now=later(59)) == []
    assert await catalog.garbage.claim(10, now=later(60)) == [key]
    await catalog.garbage.forget([key])
    await catalog.nars.reserve(key)


async def test_what_was_written_after_its_session_had_ended_is_deleted(catalog: SqlCatalog) -> None:
    """The collector deletes the key while the file is written, before or after that: no row named the bytes then."""
    file, session = nar_file("a"), Session(id="s", cache=CACHE, principal="token ci", begun=NOW, seen=NOW)
    await catalog.uploads.expect(CACHE, "s", file.file_hash, file.blob_key, now=NOW)
    await catalog.uploads.session(session, end=True)
    assert await catalog.garbage.claim(10, now=NOW) == [file.blob_key]
    with pytest.raises(BeingDeleted):
        await catalog.uploads.received(CACHE, "s", file, findings="{}", now=NOW)
    with pytest.raises(BeingDeleted):
        await catalog.uploads.expect(CACHE, "s", file.file_hash, file.blob_key, now=NOW)
    await catalog.garbage.forget([file.blob_key])
    assert await catalog.garbage.claim(10, now=NOW) == [file.blob_key], "it may have been written after it was deleted"
    await catalog.garbage.forget([file.blob_key])
    with pytest.raises(BeingDeleted):
        await catalog.uploads.received(CACHE, "s", file, findings="{}", now=NOW)
    assert await catalog.garbage.claim(10, now=NOW) == [file.blob_key]
    await catalog.garbage.forget([file.blob_key])
    assert await catalog.garbage.claim(10, now=NOW) == []


async def test_a_file_of_another_cache_is_adopted_as_it_is_named_now(catalog: SqlCatalog) -> None:
    file = nar_file("a")
    assert await catalog.uploads.adopt(OTHER, "s", file.file_hash, now=NOW) is None
    assert await catalog.nars.file(file.file_hash) is None, "nothing is named that nothing has"
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    assert await catalog.uploads.adopt(OTHER, "s", file.file_hash, now=NOW) == file
    assert await catalog.uploads.find(OTHER, file.file_hash) == file
    await catalog.nars.quarantine(file.file_hash, "rotten", now=NOW)
    assert await catalog.uploads.adopt(OTHER, "t", file.file_hash, now=NOW) is None
    assert await catalog.nars.file(file.file_hash) is None, "it has not come again"


# Pins


RELEASE, P, Q = PinName("release"), PinName("p"), PinName("q")


async def test_a_pin_is_set_when_its_path_is_published(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "top", ["base"]), now=NOW)
    waits = await catalog.pins.set(CACHE, RELEASE, store_path("top"), set_by="ci", now=NOW)
    assert (waits.revision, waits.set_at) == (1, None)
    standing = await catalog.pins.find(CACHE, RELEASE)
    assert standing == Pin(name=RELEASE, rule=PinRule(), newest=None, waiting=waits)
    await catalog.objects.publish(publication(CACHE, "base"), now=later(5))
    pinned = replace(waits, set_at=later(5))
    assert await catalog.pins.revisions(CACHE, RELEASE, now=later(5)) == [(pinned, True)]
    assert await catalog.pins.find(CACHE, RELEASE) == Pin(name=RELEASE, rule=PinRule(), newest=pinned, waiting=None)


async def test_a_pin_whose_path_never_comes_leads_to_the_one_before(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "old"), now=NOW)
    old = await catalog.pins.set(CACHE, RELEASE, store_path("old"), set_by="ci", now=NOW)
    new = await catalog.pins.set(CACHE, RELEASE, store_path("new"), set_by="ci", now=later(1))
    [pin] = await catalog.pins.page(CACHE, None, 10)
    assert (pin.newest, pin.waiting) == (old, new)
    assert await catalog.pins.revisions(CACHE, RELEASE, now=later(1)) == [(new, False), (old, True)]


async def test_a_pin_has_revisions_and_setting_the_same_path_makes_none(catalog: SqlCatalog) -> None:
    for name in ("a", "b", "b"):
        await catalog.objects.publish(publication(CACHE, name), now=NOW)
        change = PinRuleChange(keep_revisions=5)
        await catalog.pins.set(CACHE, P, store_path(name), change, set_by="ci", now=NOW)
    await catalog.pins.set(CACHE, Q, store_path("a"), set_by="ci", now=NOW)
    revisions = [one for one, _ in await catalog.pins.revisions(CACHE, P, now=NOW)]
    assert [(one.revision, one.path) for one in revisions] == [(2, store_path("b")), (1, store_path("a"))]
    newest = [pin.newest for pin in await catalog.pins.page(CACHE, None, 10)]
    assert [(one.name, one.revision) for one in newest if one is not None] == [("p", 2), ("q", 1)]
    assert [pin.name for pin in await catalog.pins.page(CACHE, P, 10)] == ["q"]
    assert await catalog.pins.remove(CACHE, P, removed_by="ci", now=NOW)
    assert not await catalog.pins.remove(CACHE, P, removed_by="ci", now=NOW)
    assert await catalog.pins.revisions(CACHE, P, now=NOW) == []
    assert await catalog.pins.find(CACHE, P) is None


async def test_what_is_not_said_of_the_rule_of_a_pin_stays(catalog: SqlCatalog) -> None:
    """In another cache, configuring one setting took retention back to its default."""
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    changes = (PinRuleChange(keep_seconds=100), PinRuleChange(keep_revisions=3), None, PinRuleChange(keep_forever=True))
    for change in changes:
        await catalog.pins.set(CACHE, P, store_path("a"), change, set_by="ci", now=NOW)
    pin = await catalog.pins.find(CACHE, P)
    assert pin is not None
    assert pin.rule == PinRule(keep_revisions=3, keep_seconds=100, keep_forever=True)


async def test_a_revision_that_was_never_set_counts_for_none_that_is_kept(catalog: SqlCatalog) -> None:
    """`--keep-revisions 2` kept one, when the path between two was never published."""
    for name in ("a", "c"):
        await catalog.objects.publish(publication(CACHE, name), now=NOW)
    for name in ("a", "b", "c"):
        change = PinRuleChange(keep_revisions=2)
        await catalog.pins.set(CACHE, P, store_path(name), change, set_by="ci", now=NOW)
    revisions = await catalog.pins.revisions(CACHE, P, now=later(1000))
    assert [(one.path.name, keeps) for one, keeps in revisions] == [("c", True), ("b", False), ("a", True)]


async def test_a_pin_remembers_a_thousand_revisions_and_those_that_keep(catalog: SqlCatalog) -> None:
    for name in ("a", "b"):
        await catalog.objects.publish(publication(CACHE, name), now=NOW)
    for number in range(1010):
        await catalog.pins.set(CACHE, P, store_path("ab"[number % 2]), set_by="ci", now=NOW)
    assert len(await catalog.pins.revisions(CACHE, P, now=NOW)) == 1000


async def test_pins_are_in_the_audit_log(catalog: SqlCatalog) -> None:
    await catalog.pins.set(CACHE, RELEASE, store_path("a"), PinRuleChange(keep_revisions=3), set_by="ci", now=NOW)
    await catalog.pins.remove(CACHE, RELEASE, removed_by="admin", now=later(1))
    await catalog.pins.remove(CACHE, RELEASE, removed_by="admin", now=later(2))
    entries = await catalog.audit.page(None, 10)
    assert [(one.principal, one.action, one.cache, one.subject) for one in entries] == [
        ("ci", "pin.set", "default", "release"),
        ("admin", "pin.remove", "default", "release"),
    ]
    detail = json.loads(entries[0].detail)
    assert (detail["path"], detail["revision"], detail["keep_revisions"]) == (store_path("a"), 1, 3)


# What upstreams said, and mismatches


async def test_what_an_upstream_said_is_found_while_its_object_is_there(catalog: SqlCatalog) -> None:
    narinfo = NarInfo(path_info=path_info("a"), url="nar/x.nar.xz?q", compression="xz", file_size=3)
    told = UpstreamNarInfo(narinfo=narinfo, upstream="one", fetched=1.5, max_age=60.25)
    await catalog.mirrored.refresh(told)
    assert await catalog.mirrored.find(hash_part("a")) is None
    stored = await catalog.mirrored.keep(publication(MIRROR, "a"), told, now=NOW)
    kept = await catalog.mirrored.find(hash_part("a"))
    assert kept is not None
    assert kept.upstream_narinfo == told
    assert kept.stored == stored == await catalog.objects.find(MIRROR, hash_part("a"))
    later_told = replace(told, upstream="two", fetched=2.0, max_age=float("1e30"))
    await catalog.mirrored.refresh(later_told)
    found = await catalog.mirrored.find(hash_part("a"))
    assert found is not None
    assert (found.upstream_narinfo.upstream, found.upstream_narinfo.fetched) == ("two", 2.0)
    assert found.upstream_narinfo.max_age > 10**9
    await catalog.nars.quarantine(nar_file("a").file_hash, "gone", now=NOW)
    assert await catalog.mirrored.find(hash_part("a")) is None


async def test_what_was_compressed_here_is_found_together_with_what_is_mirrored(catalog: SqlCatalog) -> None:
    told = UpstreamNarInfo(
        narinfo=NarInfo(path_info=path_info("a"), url="nar/x.nar.xz", compression="xz"),
        upstream="one",
        fetched=1.0,
        max_age=60.0,
    )
    assert await catalog.mirrored.objects(hash_part("a")) == []
    mirrored = await catalog.mirrored.keep(publication(MIRROR, "a"), told, now=NOW)
    assert await catalog.mirrored.objects(hash_part("a")) == [mirrored]
    await catalog.objects.publish(publication(STORE, "a"), now=NOW)
    compressed = await catalog.objects.find(STORE, hash_part("a"))
    assert await catalog.mirrored.objects(hash_part("a")) == [compressed, mirrored]


async def test_realisations_of_upstreams_are_kept(catalog: SqlCatalog) -> None:
    assert await catalog.mirrored.realisation("x!out") is None
    for text in (b"{}", b'{"id":1}'):
        given = UpstreamRealisation(output="x!out", text=text, upstream="one")
        await catalog.mirrored.keep_realisation(given, now=NOW)
        assert await catalog.mirrored.realisation("x!out") == given


async def test_mismatches_are_remembered_until_the_nar_is_right(catalog: SqlCatalog) -> None:
    one = Mismatch(store_path=store_path("a"), expected=Hash.of(b"1"), actual=Hash.of(b"2"), found=NOW)
    two = Mismatch(store_path=store_path("b"), expected=Hash.of(b"1"), actual=None, found=later(1))
    for mismatch in (one, two, one):
        await catalog.mismatches.note(mismatch)
    assert await catalog.mismatches.all(10) == [two, one]
    await catalog.mismatches.clear(store_path("b"))
    assert await catalog.mismatches.all(10) == [one]


# Tokens, keys, audit


def token(token_id: str, name: str) -> TokenRow:
    return TokenRow(
        id=token_id,
        name=name,
        secret_hash=b"\0" * 32,
        actions=frozenset([Action.READ, Action.PUSH]),
        patterns=("team-*", "other"),
        created=NOW,
        expires=later(60),
    )


async def test_a_token_is_found_until_and_after_it_is_revoked(catalog: SqlCatalog) -> None:
    given = token("a1", "ci")
    await catalog.access.add(given)
    assert await catalog.access.find("a1") == given
    assert await catalog.access.find("a2") is None
    with pytest.raises(TokenExists):
        await catalog.access.add(token("a2", "ci"))
    assert await catalog.access.revoke("ci", now=later(1))
    assert not await catalog.access.revoke("ci", now=later(1))
    revoked = await catalog.access.find("a1")
    assert revoked == replace(given, revoked=later(1))
    assert given.is_good(later(59))
    assert not given.is_good(later(60))
    assert not revoked.is_good(NOW)
    await catalog.access.add(token("a2", "ci"))
    assert [row.id for row in await catalog.access.page("a1", 10)] == ["a2"]
    await catalog.access.used({"a2": later(7), "none": NOW})
    used = await catalog.access.find("a2")
    assert used is not None
    assert used.used == later(7)


async def test_all_tokens_of_a_holder_are_revoked_at_once_and_no_others(catalog: SqlCatalog) -> None:
    """What a CI's job had exchanged its token for opened the cache for hours, and was to be revoked one by one."""
    ours, others = "ci identity repo:acme/x", "ci identity repo:acme/xy"
    await catalog.access.add(token("hand", ours))
    for number in range(3):
        await catalog.access.add(replace(token(f"a{number}", f"ci-a{number}"), holder=ours))
    await catalog.access.add(replace(token("b", "ci-b"), holder=others))
    assert await catalog.access.revoke("ci-a0", now=NOW) == 1
    before = catalog.database.generation(Topic.ACCESS)
    assert await catalog.access.revoke(ours, now=later(1), of_holder=True) == 2
    assert catalog.database.generation(Topic.ACCESS) != before, "each worker asks again"
    revoked = {row.id: row.revoked for row in await catalog.access.page(None, 10)}
    assert revoked == {"a0": NOW, "a1": later(1), "a2": later(1), "b": None, "hand": None}
    assert await catalog.access.revoke(ours, now=later(2), of_holder=True) == 0


async def test_tokens_of_a_holder_that_have_expired_are_not_revoked(catalog: SqlCatalog) -> None:
    """`token revoke --holder` said `revoked 40` of tokens that had all expired, and wrote so in the audit log."""
    holder = "ci identity repo:acme/x"
    await catalog.access.add(replace(token("old", "ci-old"), holder=holder))
    await catalog.access.add(replace(token("new", "ci-new"), holder=holder, expires=later(61)))
    assert await catalog.access.revoke(holder, now=later(60), of_holder=True) == 1
    revoked = {row.id: row.revoked for row in await catalog.access.page(None, 10)}
    assert revoked == {"old": None, "new": later(60)}


async def test_a_token_of_an_identity_keeps_what_several_rules_allow(catalog: SqlCatalog) -> None:
    grants = (*grants_of(["push", "read"], ["main"]), *grants_of(["read"], ["deps-*"]))
    by_hand = token("a1", "ci-a1")
    given = replace(by_hand, actions=frozenset(), patterns=(), holder="ci identity repo:acme/x", grants=grants)
    await catalog.access.add(given)
    found = await catalog.access.find("a1")
    assert found == given
    assert found.all_grants == grants


async def test_tokens_of_identities_go_a_day_after_they_expired_and_others_stay(catalog: SqlCatalog) -> None:
    """Jobs are many: their tokens would fill the catalog."""
    await catalog.access.add(token("hand", "made by hand"))
    await catalog.access.add(replace(token("old", "ci-old"), holder="ci identity x"))
    day = 86_400
    await catalog.access.add(replace(token("new", "ci-new"), holder="ci identity x", created=later(60 + day)))
    assert {row.id for row in await catalog.access.page(None, 10)} == {"hand", "old", "new"}
    one_more = replace(token("next", "ci-next"), holder="ci identity x", expires=later(121 + day))
    await catalog.access.add(replace(one_more, created=later(61 + day)))
    assert {row.id for row in await catalog.access.page(None, 10)} == {"hand", "next"}


async def test_a_holder_has_a_bounded_number_of_tokens(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that logs in without end would fill the catalog, and every exchange writes."""
    monkeypatch.setattr(access, "MAX_OF_HOLDER", 2)

    def of(holder: str, token_id: str, at: int = 0) -> TokenRow:
        given = replace(token(token_id, f"ci-{token_id}"), holder=holder)
        return replace(given, created=later(at), expires=later(at + 60))

    await catalog.access.add(of("x", "a"))
    await catalog.access.add(of("x", "b", 30))
    with pytest.raises(TooManyTokens, match="the x has 2 tokens"):
        await catalog.access.add(of("x", "c", 59))
    await catalog.access.add(of("y", "d", 59))
    # One has expired, and is there all the same to be told so.
    await catalog.access.add(of("x", "e", 60))
    assert {row.id for row in await catalog.access.page(None, 10)} == {"a", "b", "d", "e"}


async def test_a_new_key_lets_the_old_ones_sign_for_a_while(catalog: SqlCatalog) -> None:
    old = KeyRow(
        cache=CACHE,
        name="k-1",
        public_key="k-1:x",
        secret=b"\0s",
        encryption="",
        state=KeyState.ACTIVE,
        created=NOW,
    )
    new = dataclasses.replace(old, name="k-2", created=later(1))
    made, again, rotated, retired, absent = (entry_now("tests", f"key.{number}") for number in range(5))
    await catalog.keys.add(old, made)
    with pytest.raises(KeyExists):
        await catalog.keys.add(old, again)
    await catalog.keys.add(new, rotated, retire_others=later(60))
    assert await catalog.keys.of(CACHE) == [dataclasses.replace(old, state=KeyState.RETIRING, until=later(60)), new]
    assert await catalog.keys.retire(CACHE, "k-1", retired, until=later(5), now=later(5))
    assert [key.state for key in await catalog.keys.of(CACHE)] == [KeyState.RETIRED, KeyState.ACTIVE]
    assert not await catalog.keys.retire(CACHE, "k-3", absent, until=later(5), now=later(5))
    assert await catalog.keys.of(OTHER) == []
    assert await catalog.audit.page(None, 10) == [made, rotated, retired], "what was refused is not noted"


async def test_a_change_of_a_key_is_one_of_access_and_nothing_to_end_is_none(catalog: SqlCatalog) -> None:
    """Workers remember a cache with its keys until the generation of access is another one."""
    key = KeyRow(
        cache=CACHE,
        name="k-1",
        public_key="k-1:x",
        secret=b"s",
        encryption="",
        state=KeyState.ACTIVE,
        created=NOW,
    )
    seen = [catalog.database.generation(Topic.ACCESS)]
    await catalog.keys.add(key, entry_now("tests", "key.create"))
    seen.append(catalog.database.generation(Topic.ACCESS))
    await catalog.keys.add(
        dataclasses.replace(key, name="k-2"), entry_now("tests", "key.rotate"), retire_others=later(60)
    )
    seen.append(catalog.database.generation(Topic.ACCESS))
    assert not await catalog.keys.end_overlaps(now=later(59))
    assert catalog.database.generation(Topic.ACCESS) == seen[-1]
    assert await catalog.keys.end_overlaps(now=later(60))
    seen.append(catalog.database.generation(Topic.ACCESS))
    assert not await catalog.keys.end_overlaps(now=later(61))
    assert {key.name: key.state for key in await catalog.keys.of(CACHE)} == {
        "k-1": KeyState.RETIRED,
        "k-2": KeyState.ACTIVE,
    }
    retired = entry_now("tests", "key.retire")
    assert await catalog.keys.retire(CACHE, "k-2", retired, until=later(61), now=later(61))
    seen.append(catalog.database.generation(Topic.ACCESS))
    assert len(set(seen)) == len(seen)


async def test_the_audit_log_is_paged_by_time_and_pruned(catalog: SqlCatalog) -> None:
    entries = [
        AuditEntry(at_ns=number // 2, id=str(number), principal="p", action="push", cache="c", subject=f"{number}")
        for number in range(6)
    ]
    await catalog.audit.note(entries)
    await catalog.audit.note(entries[:2])
    first = await catalog.audit.page(None, 4)
    assert [*first, *await catalog.audit.page((first[-1].at_ns, first[-1].id), 4)] == entries
    assert await catalog.audit.prune(2, 3) == 3
    assert await catalog.audit.page(None, 10) == entries[3:]


# The database


async def test_the_identity_of_a_catalog_is_drawn_once(catalog: SqlCatalog) -> None:
    drawn = await asyncio.gather(*(SqlCatalog(catalog.database).identity() for _ in range(5)))
    assert {*drawn, await catalog.identity()} == {drawn[0]}
    assert len(bytes.fromhex(drawn[0])) == 16


async def test_every_change_gives_its_topic_another_generation(catalog: SqlCatalog) -> None:
    def generations() -> tuple[int | None, ...]:
        return tuple(catalog.database.generation(topic) for topic in Topic)

    before = generations()
    assert None not in before
    await catalog.objects.used({(CACHE, hash_part("a")): NOW})
    assert generations() == before
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    published = generations()
    assert published[0] != before[0]
    assert published[1] == before[1]
    await catalog.access.add(token("a", "a"))
    assert generations()[0] == published[0]
    assert generations()[1] != published[1]


async def test_clients_that_push_the_same_at_once_publish_it_once(catalog: SqlCatalog) -> None:
    names = [f"n{number}" for number in range(20)]
    given = [publication(CACHE, name, names[:number]) for number, name in enumerate(names)]
    await asyncio.gather(*[catalog.objects.publish(one, now=NOW) for one in (*reversed(given), *given)])
    assert await catalog.objects.present(CACHE, "s", hash_parts(names), now=NOW) == hash_parts(names)
    assert await catalog.objects.size(CACHE) == Size(objects=20, size=2000, published_size=2000)
