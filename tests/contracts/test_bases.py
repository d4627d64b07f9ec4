"""The port `Bases`, which every database fulfils."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from catalogs import BACKENDS, NOW, later, opened_catalog, publication
from msgspec.structs import replace

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.bases import MAX_BASES, OtherVersions
from harmonia_py.catalog.caches import CacheId, CacheSettings
from harmonia_py.catalog.collection import Reason
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.catalog.uploads import Session
from harmonia_py.chunks.catalog import PackedChunk
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, StorePath

CHUNK = ChunkHash(Hash.of(b"chunk").digest)


@pytest.fixture(params=BACKENDS)
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog(request.param, tmp_path) as catalog:
        await catalog.packs.add("packs/a", 10, [PackedChunk(CHUNK, 0, 10)], now=NOW)
        yield catalog


async def a_cache(catalog: SqlCatalog, name: str = "team") -> CacheId:
    cache = (await catalog.caches.create(CacheName(name), CacheSettings(), declared=False, now=NOW)).id
    await catalog.uploads.session(Session(id=f"s {cache}", cache=cache, principal="ci", begun=NOW, seen=NOW))
    return cache


def build(name: str, number: int = 0) -> StorePath:
    """A build of what is called that."""
    return StorePath(f"{base32.encode(Hash.of(f'{name} {number}'.encode()).digest[:20])}-{name}")


async def publish(
    catalog: SqlCatalog, cache: CacheId, path: StorePath, *, seconds: int = 0, chunked: bool = True
) -> None:
    """Publish a path at some time, with its file in chunks."""
    wanted = publication(cache, path)
    wanted = replace(wanted, path_info=replace(wanted.path_info, store_path=path))
    await catalog.objects.publish(wanted, now=later(seconds))
    if chunked:
        key = f"{RECIPES}{wanted.file.file_hash.nix32}"
        made = replace(wanted.file, file_hash=Hash.of(f"made {path}".encode()), blob_key=key)
        assert await catalog.chunks.replace(wanted.file.file_hash, made, [CHUNK], now=later(seconds))


async def bases(catalog: SqlCatalog, cache: CacheId, name: str) -> list[HashPart]:
    found = await catalog.bases.like(cache, f"s {cache}", [name], now=later(1000))
    assert set(found) == {name}
    return [base.hash_part for base in found[name]]


async def test_the_newest_builds_of_a_program_come_first_and_then_other_versions(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    for number in range(6):
        await publish(catalog, team, build("hello-2.12", number), seconds=number)
    for name in ("hello-2.10", "hello-2.11", "hello-2.13", "hello-2.12-doc", "hello-world-1", "hell-1", "hellos-2"):
        await publish(catalog, team, build(name))
    newest = [build("hello-2.12", number).hash_part for number in (5, 4, 3, 2)]
    versions = [build(name).hash_part for name in ("hello-2.11", "hello-2.10", "hello-2.13")]
    assert await bases(catalog, team, "hello-2.12") == [*newest, *versions]
    assert await bases(catalog, team, "hello-2.14-doc") == [build("hello-2.12-doc").hash_part]
    assert await bases(catalog, team, "hello") == []


async def test_a_path_has_few_bases_however_many_there_are(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    for name in ("x-1", "x-2", "x-3"):
        for number in range(9):
            await publish(catalog, team, build(name, number))
    assert len(await bases(catalog, team, "x-2")) == MAX_BASES


async def test_what_is_whole_is_passed_over(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    await publish(catalog, team, build("x-1", 0))
    for number in range(1, 20):
        await publish(catalog, team, build("x-1", number), seconds=number, chunked=False)
    assert await bases(catalog, team, "x-1") == [build("x-1", 0).hash_part]


async def test_what_readers_do_not_see_and_what_other_caches_have_is_no_base(catalog: SqlCatalog) -> None:
    team, other = await a_cache(catalog), await a_cache(catalog, "other")
    path = build("x-1")
    await publish(catalog, other, path)
    assert await bases(catalog, team, "x-1") == []
    assert await catalog.bases.find(team, [path.hash_part]) == []
    assert [base.hash_part for base in await catalog.bases.find(other, [path.hash_part])] == [path.hash_part]
    found = await catalog.objects.find(other, path.hash_part)
    assert found is not None
    await catalog.nars.quarantine(found.file.file_hash, "lost", now=NOW)
    assert await bases(catalog, other, "x-1") == []
    assert await catalog.bases.find(other, [path.hash_part]) == []


async def test_a_base_stays_until_its_session_ends_and_was_not_used(catalog: SqlCatalog) -> None:
    team, path = await a_cache(catalog), build("x-1")
    await publish(catalog, team, path)
    before = await catalog.objects.find(team, path.hash_part)
    session = Session(id=f"s {team}", cache=team, principal="ci", begun=NOW, seen=later(1000))

    async def leased() -> bool:
        await catalog.collection.condemn(
            team, [path.hash_part], Reason.UNUSED, unused_since=later(2000), now=later(2000)
        )
        found = await catalog.objects.keepers(team, [path.hash_part], 9, now=later(2000))
        return session.id in found[path.hash_part].sessions

    assert await bases(catalog, team, "x-1") == [path.hash_part]
    assert await catalog.objects.find(team, path.hash_part) == before
    assert await leased()
    assert await bases(catalog, team, "x-1") == [path.hash_part], "it was not condemned"
    await catalog.uploads.session(session, end=True)
    assert not await leased()
    assert await bases(catalog, team, "x-1") == [], "it is condemned"


@pytest.mark.parametrize(
    ("name", "others", "none"),
    [
        ("hello-2.12", ["hello-2.9", "hello-10"], ["hello-2.12-doc", "hello-world-1", "hello", "hell-2"]),
        ("gcc-13.2.0-lib", ["gcc-9-lib"], ["gcc-13.2.0", "gcc-wrapper-1-lib"]),
        ("a-b-1", ["a-b-2"], ["a-1", "a-b-c-1"]),
    ],
)
def test_other_versions_are_of_the_same_program_and_output(name: str, others: list[str], none: list[str]) -> None:
    versions = OtherVersions.of(name)
    assert versions is not None
    assert [one for one in [*others, *none] if versions.has(one)] == others


@pytest.mark.parametrize("name", ["source", "-1", "1", "a-b", "a-"])
def test_a_name_without_a_version_has_no_others(name: str) -> None:
    assert OtherVersions.of(name) is None
