"""Paths that one cache has, published in another, while their files are deleted, lost, or made into chunks."""

import json
from collections.abc import Awaitable, Callable

import pytest
from chunking import LIBRARY, make_chunks
from house import House, blob
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, pushed
from pushing import OTHER, TEAM
from trees import File, Folder

from harmonia_py.cache.access import Principal, grants_of
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.catalog.objects import StoredObject
from harmonia_py.client import promotion
from harmonia_py.client.http import HttpServer
from harmonia_py.errors import PushConflict, PushTooLarge, QuotaExceeded
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push import promoting
from harmonia_py.push.promoting import Promoted, promote
from harmonia_py.push.pushes import Pushes

PROMOTER = Principal("token promoter", grants_of(["read", "push"], ["team", "other"]))
MAIN = CacheName("main")
TOP = StorePath("6qv4vv5c4s9nlw2m5p0brzz0pmi1p3jw-top-1")


async def pushes(house: House, name: CacheName) -> Pushes:
    row = await house.server.catalog.caches.find(name)
    assert row is not None
    node = house.server.node
    found = node.caches.pushes_of(node.caches.cache_of(row))
    assert found is not None
    return found


async def promoted(house: House, path: StorePath, target: CacheName = OTHER, source: Pushes | None = None) -> Promoted:
    to = await pushes(house, target)
    session = await to.session(PROMOTER, "promote")
    return await promote(source or await pushes(house, TEAM), to, session, [path.hash_part])


async def has(house: House, *paths: StorePath, name: CacheName = OTHER) -> list[bool]:
    cache = await pushes(house, name)
    return [await cache.stored(path.hash_part) is not None for path in paths]


def then(source: Pushes, path: StorePath, act: Callable[[], Awaitable[object]], patch: pytest.MonkeyPatch) -> None:
    """Let something happen after the promotion has read this path."""
    stored = Pushes.stored

    async def crossed(pushes: Pushes, hash_part: HashPart) -> StoredObject | None:
        found = await stored(pushes, hash_part)
        if pushes is source and hash_part == path.hash_part:
            await act()
        return found

    patch.setattr(Pushes, "stored", crossed)


async def test_a_file_that_is_lost_unnoticed_is_noticed_before_anything_is_published(house: House) -> None:
    """The path was published in the other cache, and its readers were told of bytes that nothing has."""
    await house.published(GLIBC, HELLO)
    (house.server.directory / blob(HELLO)).unlink()
    with pytest.raises(PushConflict, match="is lost"):
        await promoted(house, PATH)
    assert await has(house, PATH, REFERENCE) == [False, False]
    assert await has(house, PATH, name=TEAM) == [False], "nor does its own cache show it any more"


async def test_a_file_that_was_quarantined_meanwhile_is_not_taken(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To adopt it was to say that it had come again, and its bad bytes were served by both caches."""
    await house.published(GLIBC)
    source, nars = await pushes(house, TEAM), house.server.catalog.nars
    file_hash = GLIBC.claim.file_hash
    assert file_hash is not None
    then(source, REFERENCE, lambda: nars.quarantine(file_hash, "rotten", now=house.server.node.now()), monkeypatch)
    with pytest.raises(PushConflict, match="went meanwhile"):
        await promoted(house, REFERENCE, source=source)
    assert await has(house, REFERENCE) == [False]
    assert await nars.file(file_hash) is None


async def test_a_file_that_was_collected_meanwhile_is_not_taken(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row was written anew, with the key of bytes that were gone."""
    await house.published(GLIBC)
    source, catalog = await pushes(house, TEAM), house.server.catalog
    then(source, REFERENCE, lambda: gone(house), monkeypatch)
    with pytest.raises(PushConflict):
        await promoted(house, REFERENCE, source=source)
    assert await has(house, REFERENCE) == [False]
    assert GLIBC.claim.file_hash is not None
    assert await catalog.nars.file(GLIBC.claim.file_hash) is None
    assert blob(GLIBC) not in house.files()


async def gone(house: House) -> None:
    """The team's paths are deleted, and their files as well."""
    place = f"/team/api/paths/{REFERENCE.hash_part}?despite-pushes"
    assert (await house.server.request("DELETE", place, token="cleaner")).status == 200
    for ahead in (7200.0, 30 * 86_400.0, 60 * 86_400.0):
        await house.look(ahead)


async def test_what_is_in_chunks_is_promoted_as_it_is(house: House) -> None:
    await house.published(LIBRARY)
    await make_chunks(house)
    before = house.files()
    assert (await promoted(house, LIBRARY.path)).published == [LIBRARY.path]
    assert house.files() == before
    found = await (await pushes(house, OTHER)).stored(LIBRARY.path.hash_part)
    assert found is not None
    assert found.file.is_chunked


async def test_the_first_build_of_a_path_stays(house: House) -> None:
    """As with a push: what readers have of it remains true."""
    another = pushed(REFERENCE, Folder({b"lib": File(b"libc, built again")}))
    await house.published(GLIBC)
    for place, data in ((another.place, another.data), (f"/{REFERENCE.hash_part}.narinfo", another.narinfo)):
        assert (await house.server.request("PUT", f"/other/push{place}", data, token="stranger")).status == 200
    result = await promoted(house, REFERENCE)
    assert (result.published, result.present, result.first) == ([], 1, [])
    found = await (await pushes(house, OTHER)).stored(REFERENCE.hash_part)
    assert found is not None
    assert found.path_info.nar_hash == another.claim.path_info.nar_hash


async def test_a_promotion_that_takes_long_goes_on_with_the_next_request(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was one request whose answer came at the end, and proxies end what says nothing for a minute."""
    await house.published(GLIBC, HELLO, pushed(TOP, Folder({b"hello": File(f"/nix/store/{PATH}".encode())}), PATH))
    monkeypatch.setattr(promoting, "_ANSWER_SECONDS", 0.0)
    wanted = json.dumps({"from": "team", "paths": [TOP]}).encode()
    first = await house.server.request("POST", "/other/api/promote", wanted, token="promoter")
    assert json.loads(first.body) == {"state": "going on", "published": [REFERENCE], "present": 0, "kept_first": []}
    async with HttpServer(f"http://127.0.0.1:{house.server.port}", "promoter") as server:
        result = await promotion.promote(server, "other/", "team", [str(TOP)])
    assert (result.published, result.present, result.kept_first) == ((PATH, TOP), 0, ())
    noted = await house.server.catalog.audit.page(None, 10)
    assert [(entry.subject, entry.detail) for entry in noted if entry.action == "promote"] == [
        (path, json.dumps({"from": "team", "paths": 1})) for path in (REFERENCE, PATH, TOP)
    ]


async def test_what_a_promotion_published_before_it_was_cut_is_in_the_audit_log(house: House) -> None:
    """The entry was written at the end, and a promotion that had failed or whose client had gone had none."""
    await limited(house, CacheSettings(max_size=max(len(GLIBC.data), len(HELLO.data))))
    await house.published(GLIBC, HELLO)
    with pytest.raises(QuotaExceeded):
        await promoted(house, PATH, MAIN)
    noted = await house.server.catalog.audit.page(None, 10)
    assert [entry.subject for entry in noted if entry.action == "promote"] == [REFERENCE]


async def test_a_larger_nar_than_a_cache_takes_is_not_promoted_to_it(house: House) -> None:
    """`max_nar_size` was held against the compressed file alone."""
    large = pushed(PATH, Folder({b"lib": File(b"libc" * 1000)}), REFERENCE, compression="zstd")
    await limited(house, CacheSettings(max_nar_size=4000))
    await house.published(GLIBC, large)
    assert len(large.data) < 4000 < large.claim.path_info.nar_size
    with pytest.raises(PushTooLarge, match="4000 are taken at the most"):
        await promoted(house, PATH, MAIN)
    assert await has(house, PATH, REFERENCE, name=MAIN) == [False, False]


async def test_a_promotion_to_a_cache_that_is_full_leaves_no_path_without_its_references(house: House) -> None:
    await limited(house, CacheSettings(max_size=max(len(GLIBC.data), len(HELLO.data))))
    await house.published(GLIBC, HELLO)
    with pytest.raises(QuotaExceeded):
        await promoted(house, PATH, MAIN)
    assert await has(house, PATH, REFERENCE, name=MAIN) == [False, True]


async def limited(house: House, settings: CacheSettings) -> None:
    """Make the cache `main`."""
    await house.server.catalog.caches.create(MAIN, settings, declared=False, now=house.server.node.now())
