"""The ports `Chunks` and `Packs`, which every database fulfils."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from catalogs import BACKENDS, NOW, hash_part, later, nar_file, opened_catalog, publication
from msgspec.structs import replace

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, CacheSettings
from harmonia_py.catalog.nars import RECIPES, BeingDeleted, NarFile
from harmonia_py.chunks.catalog import PackedChunk, Place
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.chunks.work import ChunkFigures, LastLook
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.transaction import ask
from harmonia_py.nix.hashes import Hash

ONE, TWO, THREE = (ChunkHash(Hash.of(name).digest) for name in (b"1", b"2", b"3"))
PACK = [PackedChunk(ONE, 0, 10), PackedChunk(TWO, 10, 20), PackedChunk(THREE, 30, 5)]


@pytest.fixture(params=BACKENDS)
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog(request.param, tmp_path) as opened:
        yield opened


async def a_cache(catalog: SqlCatalog, name: str = "team") -> CacheId:
    return (await catalog.caches.create(CacheName(name), CacheSettings(), declared=False, now=NOW)).id


def made_of(file: NarFile) -> NarFile:
    file_hash = Hash.of(f"made {file.file_hash}".encode())
    return NarFile(
        file_hash=file_hash,
        file_size=7,
        compression="zstd",
        blob_key=f"{RECIPES}{file_hash.nix32}",
        nar_hash=file.nar_hash,
        nar_size=file.nar_size,
    )


async def test_chunks_of_a_pack_are_known_and_found(catalog: SqlCatalog) -> None:
    await catalog.packs.add("packs/a", 35, PACK[:2], now=NOW)
    assert await catalog.chunks.known([ONE, THREE]) == {ONE: 10}
    assert await catalog.chunks.places([TWO, THREE]) == {TWO: Place("packs/a", 10, 20)}


async def test_a_pack_added_again_has_its_chunks_at_their_new_places(catalog: SqlCatalog) -> None:
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    await catalog.packs.add("packs/b", 20, [PackedChunk(TWO, 0, 20)], now=NOW)
    assert await catalog.chunks.places([TWO]) == {TWO: Place("packs/b", 0, 20)}


async def test_a_file_is_due_once_nothing_has_used_it_since(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    early = await catalog.chunks.due(team, [team], later(-1), None, 10)
    assert (list(early.files), early.is_end) == ([], True)
    due = await catalog.chunks.due(team, [team], NOW, None, 10)
    assert [one.file.file_hash for one in due.files] == [nar_file("a").file_hash]
    assert list((await catalog.chunks.due(team, [team], NOW, due.after, 10)).files) == []


async def test_of_a_chunk_that_many_files_use_a_few_are_told_at_a_time(
    catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of every program is used by every file: to find them all takes longer than a transaction has."""
    team = await a_cache(catalog)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    for name in ("a", "b", "c", "d"):
        await catalog.objects.publish(publication(team, name), now=NOW)
        assert await catalog.chunks.replace(nar_file(name).file_hash, made_of(nar_file(name)), [ONE], now=NOW)
    monkeypatch.setattr("harmonia_py.database.chunks._FILES_TOLD", 3)
    for with_pack, told in ((False, 3), (True, 1), (True, 0)):
        files = await catalog.chunks.lose(ONE, with_pack=with_pack, now=NOW)
        assert len(files) == told
        assert await catalog.chunks.known([ONE]) == {}
        for file in files:
            await catalog.nars.quarantine(file.file_hash, file.blob_key, now=NOW)


async def test_a_file_that_another_cache_wants_whole_is_not_due(catalog: SqlCatalog) -> None:
    team, other = await a_cache(catalog), await a_cache(catalog, "other")
    for cache in (team, other):
        await catalog.objects.publish(publication(cache, "a"), now=NOW)
    assert list((await catalog.chunks.due(team, [team], NOW, None, 10)).files) == []
    assert len((await catalog.chunks.due(team, [team, other], NOW, None, 10)).files) == 1


async def test_what_has_a_file_has_the_one_that_replaces_it(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    file = nar_file("a")
    assert await catalog.chunks.replace(file.file_hash, made_of(file), [ONE, TWO], now=NOW)
    (stored,) = await catalog.objects.page(team, None, 10)
    assert stored.file == made_of(file)
    assert stored.file.is_chunked
    assert await catalog.nars.file(file.file_hash) is None
    assert file.blob_key in await catalog.garbage.claim(10, now=NOW)
    assert list((await catalog.chunks.due(team, [team], NOW, None, 10)).files) == []


async def test_a_path_is_published_although_its_file_was_made_of_chunks_since_it_was_looked_at(
    catalog: SqlCatalog,
) -> None:
    """A narinfo got 409 while the bytes that its file had been were deleted."""
    team, file = await a_cache(catalog), nar_file("a")
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    made = replace(file, blob_key=f"{RECIPES}{file.file_hash.nix32}")
    assert await catalog.chunks.replace(file.file_hash, made, [ONE], now=NOW)
    assert file.blob_key in await catalog.garbage.claim(10, now=NOW)
    await catalog.objects.publish(publication(team, "b", nar="a", session="s"), now=NOW)
    found = await catalog.objects.find(team, hash_part("b"))
    assert found is not None
    assert found.file == made


async def test_a_path_is_published_again_although_its_file_was_replaced_since_it_was_looked_at(
    catalog: SqlCatalog,
) -> None:
    team, file = await a_cache(catalog), nar_file("a")
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    assert await catalog.chunks.replace(file.file_hash, made_of(file), [ONE], now=NOW)
    published = await catalog.objects.publish(publication(team, "a", session="s"), now=NOW)
    assert (published.missing, published.first) == (frozenset(), None)
    found = await catalog.objects.find(team, hash_part("a"))
    assert found is not None
    assert found.file == made_of(file)
    assert await catalog.nars.file(file.file_hash) is None


async def delete_all(catalog: SqlCatalog, cache: CacheId) -> None:
    parts = [one.path_info.store_path.hash_part for one in await catalog.objects.page(cache, None, 10)]
    await catalog.deletions.delete(cache, parts, deleted_by="test", now=NOW)


async def used_in_a_pack(catalog: SqlCatalog, key: str = "packs/a") -> set[ChunkHash]:
    """What recipes have of a pack that is to be looked at, when all is dropped that can be."""
    while await catalog.packs.drop_uses(10, now=NOW):
        pass
    (pack,) = [one for one in await catalog.packs.to_look_at(10, now=NOW) if one.key == key]
    return {one.chunk for one in pack.chunks if one.is_used}


async def test_a_file_that_is_what_its_chunks_make_is_kept_as_chunks_and_leaves_nothing(catalog: SqlCatalog) -> None:
    """What `export` wrote and was pushed again stayed whole, and each round left a recipe and its uses for ever."""
    team = await a_cache(catalog)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    file = nar_file("a")
    made = replace(file, blob_key=f"{RECIPES}{file.file_hash.nix32}")
    assert await catalog.chunks.replace(file.file_hash, made, [ONE, TWO], now=NOW)
    (stored,) = await catalog.objects.page(team, None, 10)
    assert stored.file == made
    assert file.blob_key in await catalog.garbage.claim(10, now=NOW)
    assert list((await catalog.chunks.due(team, [team], NOW, None, 10)).files) == []
    assert await used_in_a_pack(catalog) == {ONE, TWO}
    await delete_all(catalog, team)
    assert await used_in_a_pack(catalog) == set()
    assert made.blob_key in await catalog.garbage.claim(10, now=NOW)


async def test_what_another_cache_keeps_whole_is_had_whole_and_uses_no_chunks(catalog: SqlCatalog) -> None:
    """Its recipe was deleted at once, as the file stood under another key; its uses of chunks were left for ever."""
    team, other = await a_cache(catalog), await a_cache(catalog, "other")
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    whole = nar_file("b")
    await catalog.objects.publish(publication(other, "b"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    made = replace(whole, blob_key=f"{RECIPES}{whole.file_hash.nix32}")
    assert await catalog.chunks.replace(nar_file("a").file_hash, made, [ONE, TWO], now=NOW)
    (stored,) = await catalog.objects.page(team, None, 10)
    assert stored.file.blob_key == whole.blob_key
    assert await used_in_a_pack(catalog) == set()
    assert {nar_file("a").blob_key, made.blob_key} < set(await catalog.garbage.claim(10, now=NOW))


async def test_chunks_of_a_file_that_was_lost_and_came_again_whole_go_after_it(catalog: SqlCatalog) -> None:
    """Its row named the bytes that had come, and what it had been made of before was never dropped."""
    team = await a_cache(catalog)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    made = made_of(nar_file("a"))
    assert await catalog.chunks.replace(nar_file("a").file_hash, made, [ONE], now=NOW)
    await catalog.nars.quarantine(made.file_hash, "it is gone", now=NOW)
    again = replace(made, blob_key=f"nar/{made.file_hash.nix32}.nar.zst")
    await catalog.objects.publish(replace(publication(team, "a"), file=again), now=NOW)
    assert (await catalog.nars.file(made.file_hash)) == again
    await delete_all(catalog, team)
    assert await used_in_a_pack(catalog) == set()


async def test_nothing_is_replaced_by_what_has_a_chunk_that_is_not_there(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 30, PACK[:2], now=NOW)
    file = nar_file("a")
    assert not await catalog.chunks.replace(file.file_hash, made_of(file), [ONE, THREE], now=NOW)
    await catalog.chunks.lose(ONE, with_pack=False, now=NOW)
    assert not await catalog.chunks.replace(file.file_hash, made_of(file), [ONE], now=NOW)
    assert await catalog.nars.file(file.file_hash) == file


async def test_a_file_that_was_lost_meanwhile_is_not_replaced(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    file = nar_file("a")
    await catalog.nars.quarantine(file.file_hash, "it is gone", now=NOW)
    assert not await catalog.chunks.replace(file.file_hash, made_of(file), [ONE], now=NOW)


async def test_a_file_stays_as_it_is_while_an_earlier_recipe_of_its_nar_is_being_deleted(catalog: SqlCatalog) -> None:
    """The collector had claimed the recipe's key and died; the other files of a pass waited with it."""
    team = await a_cache(catalog)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    file = nar_file("a")
    made = made_of(file)
    await catalog.repairs.discard([made.blob_key], garbage_from=NOW)
    assert await catalog.garbage.claim(10, now=NOW) == [made.blob_key]
    with pytest.raises(BeingDeleted):
        await catalog.chunks.replace(file.file_hash, made, [ONE], now=NOW)
    assert await catalog.nars.file(file.file_hash) == file
    await catalog.garbage.forget([made.blob_key])
    assert await catalog.chunks.replace(file.file_hash, made, [ONE], now=NOW)


@pytest.mark.parametrize("with_pack", [False, True])
async def test_a_lost_chunk_tells_which_files_have_it_until_it_comes_again(
    catalog: SqlCatalog,
    with_pack: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    team = await a_cache(catalog)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    for name, chunks in (("a", [ONE, TWO]), ("b", [THREE])):
        await catalog.objects.publish(publication(team, name), now=NOW)
        assert await catalog.chunks.replace(nar_file(name).file_hash, made_of(nar_file(name)), chunks, now=NOW)
    lost = await catalog.chunks.lose(TWO, with_pack=with_pack, now=NOW)
    names = ("a", "b") if with_pack else ("a",)
    assert {file.file_hash for file in lost} == {made_of(nar_file(name)).file_hash for name in names}
    assert set(await catalog.chunks.known([ONE, TWO, THREE])) == (set() if with_pack else {ONE, THREE})
    await catalog.packs.add("packs/b", 20, [PackedChunk(TWO, 0, 20)], now=NOW)
    assert TWO in await catalog.chunks.known([TWO])


async def test_a_pack_whose_lost_chunks_came_again_elsewhere_is_looked_at_and_goes(catalog: SqlCatalog) -> None:
    """Nothing of it was used any more, and nothing was dropped of it: up to 64 MiB stayed for ever."""
    team = await a_cache(catalog)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    assert await catalog.chunks.replace(nar_file("a").file_hash, made_of(nar_file("a")), [ONE, TWO, THREE], now=NOW)
    await catalog.chunks.lose(TWO, with_pack=True, now=NOW)
    await catalog.packs.keep("packs/a", 35)
    await catalog.packs.add("packs/b", 35, PACK, now=NOW)
    assert await used_in_a_pack(catalog) == set()
    await catalog.packs.move(["packs/a"], now=NOW, garbage_from=NOW)
    assert "packs/a" in await catalog.garbage.claim(10, now=NOW)


async def test_what_a_file_was_made_of_goes_after_it_and_packs_are_looked_at(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    for name, chunks in (("a", [ONE, TWO]), ("b", [TWO])):
        await catalog.objects.publish(publication(team, name), now=NOW)
        assert await catalog.chunks.replace(nar_file(name).file_hash, made_of(nar_file(name)), chunks, now=NOW)
    await catalog.packs.keep("packs/a", 35)
    assert list(await catalog.packs.to_look_at(10, now=NOW)) == []
    assert await catalog.packs.drop_uses(10, now=NOW) == 0
    parts = [one.path_info.store_path.hash_part for one in await catalog.objects.page(team, None, 10)]
    part = next(one for one in parts if one == publication(team, "a").path_info.store_path.hash_part)
    await catalog.deletions.delete(team, [part], deleted_by="test", now=NOW)
    assert await catalog.packs.drop_uses(1, now=NOW) == 1
    while await catalog.packs.drop_uses(1, now=NOW):
        pass
    (pack,) = await catalog.packs.to_look_at(10, now=NOW)
    assert {one.chunk for one in pack.chunks if one.is_used} == {TWO}
    await catalog.packs.move(["packs/a"], now=NOW, garbage_from=later(600))
    assert await catalog.chunks.known([ONE, TWO]) == {TWO: 20}, "what is used stays, and its pack with it"


async def test_a_pack_that_is_set_aside_is_looked_at_before_its_time_once_nothing_of_it_is_used(
    catalog: SqlCatalog,
) -> None:
    """Each use that it lost had a pack tried again that could not be read."""
    team = await a_cache(catalog)
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    for name, chunks in (("a", [ONE, TWO]), ("b", [TWO, THREE])):
        await catalog.objects.publish(publication(team, name), now=NOW)
        assert await catalog.chunks.replace(nar_file(name).file_hash, made_of(nar_file(name)), chunks, now=NOW)
    await catalog.packs.keep("packs/a", 35, look_at=later(600))
    assert await catalog.chunk_work.set_aside(NOW) == (35, 35)
    await catalog.deletions.delete(team, [hash_part("b")], deleted_by="test", now=NOW)
    while await catalog.packs.drop_uses(10, now=later(1)):
        pass
    assert list(await catalog.packs.to_look_at(10, now=later(599))) == []
    assert await catalog.chunk_work.set_aside(later(599)) == (35, 30)
    await delete_all(catalog, team)
    assert await used_in_a_pack(catalog) == set()
    assert await catalog.chunk_work.set_aside(NOW) == (0, 0)


async def test_packs_that_were_never_counted_come_behind_those_that_have_lost_uses(catalog: SqlCatalog) -> None:
    """After the update of an older catalog chunks gave no space back before all packs were counted: 17 h of 1 TB."""
    team = await a_cache(catalog)
    chunks = [ChunkHash(Hash.of(f"chunk {number}".encode()).digest) for number in range(20)]
    for number, chunk in enumerate(chunks):
        await catalog.packs.add(f"packs/{number:02}", 10, [PackedChunk(chunk, 0, 10)], now=NOW)
    await catalog.objects.publish(publication(team, "a"), now=NOW)
    assert await catalog.chunks.replace(nar_file("a").file_hash, made_of(nar_file("a")), chunks[19:], now=NOW)
    await catalog.database.write(lambda: ask("update packs set look_s = 0"))  # as the update does
    await catalog.chunks.lose(chunks[18], with_pack=False, now=NOW)
    await catalog.packs.add("packs/again", 10, [PackedChunk(chunks[18], 0, 10)], now=later(1))
    await delete_all(catalog, team)
    while await catalog.packs.drop_uses(100, now=later(2)):
        pass
    found = [one.key for one in await catalog.packs.to_look_at(16, now=later(2))]
    assert found == ["packs/18", "packs/again", "packs/19", *(f"packs/{number:02}" for number in range(13))]
    assert [one.key for one in await catalog.packs.to_look_at(2, now=later(2))] == ["packs/18", "packs/again"]


async def test_a_pack_that_nothing_needs_becomes_garbage_after_a_while(catalog: SqlCatalog) -> None:
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    await catalog.packs.move(["packs/a", "packs/not there"], now=NOW, garbage_from=later(600))
    assert await catalog.chunks.known([ONE, TWO, THREE]) == {}
    assert list(await catalog.garbage.claim(10, now=later(599))) == []
    assert list(await catalog.garbage.claim(10, now=later(600))) == ["packs/a"]


async def test_what_chunks_save_is_known_without_counting(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    for name, size in (("a", 100), ("b", 300)):
        file = nar_file(name, size=size)
        await catalog.objects.publish(replace(publication(team, name), file=file), now=NOW)
    assert await catalog.chunk_work.figures() == ChunkFigures()
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    for name, chunks in (("a", [ONE, TWO]), ("b", [TWO, THREE])):
        assert await catalog.chunks.replace(nar_file(name).file_hash, made_of(nar_file(name)), chunks, now=NOW)
    assert await catalog.chunk_work.figures() == ChunkFigures(2, 400, 1, 35, 35, 14)
    assert await catalog.chunk_work.chunked(team) == 2
    assert await catalog.repairs.wrong_totals() == []
    await catalog.deletions.delete(team, [hash_part("b")], deleted_by="test", now=NOW)
    assert await used_in_a_pack(catalog) == {ONE, TWO}
    assert await catalog.chunk_work.figures() == ChunkFigures(1, 100, 1, 35, 30, 7)
    await catalog.packs.keep("packs/a", 30, look_at=later(10))
    assert [len(await catalog.packs.to_look_at(10, now=later(wait))) for wait in (9, 10)] == [0, 1]
    await catalog.packs.keep("packs/a", 30)
    assert len(await catalog.packs.to_look_at(10, now=NOW)) == 0
    assert await catalog.chunk_work.figures() == ChunkFigures(1, 100, 1, 35, 30, 7)
    assert await catalog.chunk_work.chunked(team) == 1
    await delete_all(catalog, team)
    assert await used_in_a_pack(catalog) == set()
    await catalog.packs.move(["packs/a"], now=NOW, garbage_from=NOW)
    assert await catalog.chunk_work.figures() == ChunkFigures()
    assert await catalog.repairs.wrong_totals() == []


async def test_totals_that_a_release_before_them_has_left_wrong_are_counted_anew(catalog: SqlCatalog) -> None:
    """It removed packs and recipes beside a newer one, and their totals stayed too large for ever."""
    await catalog.packs.add("packs/a", 35, PACK, now=NOW)
    await catalog.packs.add("packs/b", 20, [PackedChunk(TWO, 0, 20)], now=NOW)
    before = await catalog.objects.size(None)
    for table, column in (("chunks", "pack_id"), ("packs", "id")):
        await catalog.database.write(lambda: ask(f"delete from {table} where {column} = 2"))  # noqa: B023
    assert {one.state for one in await catalog.repairs.wrong_totals()} == {"packs", "used"}
    await catalog.chunk_work.count_anew()
    assert await catalog.repairs.wrong_totals() == []
    assert await catalog.chunk_work.figures() == ChunkFigures(0, 0, 1, 35, 35)
    assert await catalog.objects.size(None) == replace(before, pack_size=35)


async def test_objects_that_the_job_has_not_come_to_are_counted_up_to_a_bound(catalog: SqlCatalog) -> None:
    team = await a_cache(catalog)
    for number in range(4):
        await catalog.objects.publish(publication(team, str(number)), now=later(number))
    work = catalog.chunk_work
    assert await work.waiting(team, later(2), None, 10) == 3
    assert await work.waiting(team, later(2), None, 2) == 2
    assert await work.waiting(team, later(2), (later(1), hash_part("1")), 10) == 1


async def test_what_the_job_last_did_is_remembered(catalog: SqlCatalog) -> None:
    assert await catalog.chunk_work.last() is None
    for look in (LastLook(ended=NOW, waiting=3), LastLook(ended=NOW, failed=later(9), error="no room")):
        await catalog.chunk_work.note(look)
        assert await catalog.chunk_work.last() == look
