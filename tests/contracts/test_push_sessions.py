"""What every catalog promises to the push client: `Sessions`, tried on each database that there is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from catalogs import BACKENDS, NOW, hash_part, hash_parts, later, nar_file, opened_catalog, publication, receive
from msgspec.structs import replace

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheId, CacheSettings, Timestamp
from harmonia_py.catalog.sessions import Progress
from harmonia_py.catalog.uploads import LET_GO_SECONDS, Session
from harmonia_py.database.catalog import SqlCatalog

CACHE = DEFAULT_CACHE
OTHER = CacheId(4)


@pytest.fixture(params=BACKENDS)
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog(request.param, tmp_path) as catalog:
        await catalog.caches.create(CacheName("other"), CacheSettings(), declared=False, now=NOW)
        await catalog.uploads.session(Session(id="s", cache=CACHE, principal="token ci", begun=NOW, seen=NOW))
        yield catalog


async def test_a_session_is_found_by_its_id_alone(catalog: SqlCatalog) -> None:
    found = await catalog.sessions.find("s")
    assert found is not None
    assert (found.cache, found.principal, found.ended) == (CACHE, "token ci", None)
    assert await catalog.sessions.find("t") is None


async def test_a_session_says_what_it_has_brought(catalog: SqlCatalog) -> None:
    for name in ("a", "b", "c"):
        await receive(catalog, CACHE, "s", nar_file(name), findings="{}", now=NOW)
    await catalog.objects.publish(publication(CACHE, "a", session="s"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "b", ["gone"], session="s"), now=NOW)
    assert await catalog.sessions.progress("s") == Progress(
        received=1, received_size=100, present=1, published=1, waiting=1
    )


async def test_a_nar_that_the_cache_has_is_offered_by_its_hash_and_stays(catalog: SqlCatalog) -> None:
    file = nar_file("a")
    assert file.nar_hash is not None
    await receive(catalog, CACHE, "t", file, findings="{}", now=NOW)
    offered = await catalog.sessions.nars(CACHE, "s", [file.nar_hash], now=later(5))
    assert offered == {file.nar_hash: file}
    assert (await catalog.sessions.progress("s")).received == 1, "it is kept for this session now"


@pytest.mark.parametrize("ends", ["the first to bring it", "the last to bring it"])
async def test_a_file_that_two_sessions_have_brought_stays_until_both_have_ended(
    catalog: SqlCatalog, ends: str
) -> None:
    """Two machines pushed the same file at once; one of them ended, or died, and the narinfo of the other got 409."""
    file = nar_file("a")
    sessions = ["s", "t"]
    for session in sessions:
        await catalog.uploads.expect(CACHE, session, file.file_hash, file.blob_key, now=NOW)
    for session in sessions:
        await receive(catalog, CACHE, session, file, findings="{}", now=NOW)
    assert [(await catalog.sessions.progress(session)).received for session in sessions] == [1, 1]
    one, other = sessions if ends == "the first to bring it" else reversed(sessions)
    await _end(catalog, one)
    assert await catalog.uploads.find(CACHE, file.file_hash) == file
    assert [(await catalog.sessions.progress(session)).received for session in (one, other)] == [0, 1]
    await _end(catalog, other)
    assert await catalog.uploads.find(CACHE, file.file_hash) is None
    assert await catalog.garbage.claim(9, now=later(1)) == [file.blob_key]


async def test_a_file_that_is_expected_again_stays_for_the_session_that_has_it(catalog: SqlCatalog) -> None:
    """A second client that began to send what another one had sent, and was cut, took it along when it ended."""
    file = nar_file("a")
    await receive(catalog, CACHE, "s", file, findings="{}", now=NOW)
    await catalog.uploads.expect(CACHE, "t", file.file_hash, file.blob_key, now=NOW)
    await _end(catalog, "t")
    assert await catalog.uploads.find(CACHE, file.file_hash) == file


async def test_what_is_found_for_a_session_stays_for_it(catalog: SqlCatalog) -> None:
    """The session that had sent a file ended while another one was told of it: that one's narinfo got 409."""
    file = nar_file("a")
    await receive(catalog, CACHE, "s", replace(file, nar_hash=None, nar_size=None), now=NOW)
    assert await catalog.uploads.claim(CACHE, "t", file.file_hash, now=NOW) is None, "it was not checked"
    await receive(catalog, CACHE, "s", file, findings="{}", now=NOW)
    assert await catalog.uploads.claim(OTHER, "o", file.file_hash, now=NOW) is None
    assert await catalog.uploads.claim(CACHE, "t", file.file_hash, now=NOW) == file
    await _end(catalog, "s")
    assert await catalog.uploads.find(CACHE, file.file_hash) == file
    await _end(catalog, "t")
    assert await catalog.uploads.claim(CACHE, "u", file.file_hash, now=NOW) is None
    assert await catalog.sessions.find("u") is None


async def test_a_file_stays_for_other_sessions_when_one_has_published_its_path(catalog: SqlCatalog) -> None:
    file = nar_file("a")
    for session in ("s", "t", "u"):
        await receive(catalog, CACHE, session, file, findings="{}", now=NOW)
    for publishing, left in (("t", [1, 0, 1]), ("u", [1, 0, 0]), ("s", [0, 0, 0])):
        await catalog.objects.publish(publication(CACHE, "a", session=publishing), now=NOW)
        assert [(await catalog.sessions.progress(session)).received for session in ("s", "t", "u")] == left
    assert await catalog.uploads.find(CACHE, file.file_hash) == file


async def test_a_file_that_its_path_does_not_need_stays_for_ten_minutes(catalog: SqlCatalog) -> None:
    """Another path with the same NAR was pushed next, whose client had been told that the file is here."""
    first, second = nar_file("first"), nar_file("second")
    await catalog.objects.publish(publication(CACHE, "a", nar="first"), now=NOW)
    await receive(catalog, CACHE, "s", second, findings="{}", now=NOW)
    published = await catalog.objects.publish(publication(CACHE, "a", nar="second", session="s"), now=NOW)
    assert published.first == first.nar_hash
    await _end(catalog, "s")
    await catalog.garbage.sweep(9, now=later(LET_GO_SECONDS - 1))
    assert await catalog.uploads.find(CACHE, second.file_hash) == second
    await catalog.garbage.sweep(9, now=later(LET_GO_SECONDS))
    assert await catalog.uploads.find(CACHE, second.file_hash) is None
    assert await catalog.garbage.claim(9, now=later(LET_GO_SECONDS)) == [second.blob_key]


async def test_a_session_may_let_another_one_have_its_file(catalog: SqlCatalog) -> None:
    file = nar_file("a")
    await receive(catalog, CACHE, "s", file, findings="{}", now=NOW)
    await receive(catalog, CACHE, "t", file, in_place_of="s", now=NOW)
    await _end(catalog, "t")
    assert await catalog.uploads.find(CACHE, file.file_hash) is None


async def test_a_file_that_was_left_behind_is_counted_until_its_session_ends(catalog: SqlCatalog) -> None:
    whole = nar_file("a")
    file = replace(whole, nar_hash=None, nar_size=None)
    await catalog.uploads.expect(CACHE, "s", file.file_hash, file.blob_key, now=NOW)
    assert await catalog.arrivals.expected(None, Timestamp(NOW - 1), 9) == []
    (expected,) = await catalog.arrivals.expected(None, NOW, 9)
    assert (expected.cache, expected.blob_key) == (CACHE, file.blob_key)
    assert not await catalog.arrivals.is_counted(CACHE, file.file_hash, file.file_size)
    for _ in range(2):
        await catalog.arrivals.count(expected, file, now=NOW)
        assert (await catalog.objects.size(CACHE)).incoming_size == file.file_size
        assert (await catalog.objects.size(None)).size == file.file_size
    assert await catalog.arrivals.is_counted(CACHE, file.file_hash, file.file_size)
    assert not await catalog.arrivals.is_counted(CACHE, file.file_hash, file.file_size + 1)
    assert await catalog.arrivals.expected(None, NOW, 9) == []
    assert await catalog.uploads.find(CACHE, file.file_hash) is None
    await _end(catalog, "s")
    assert (await catalog.objects.size(None)).size == 0
    assert await catalog.garbage.claim(9, now=NOW) == [file.blob_key]


async def test_a_file_that_was_left_behind_is_as_any_other_when_it_comes_again(catalog: SqlCatalog) -> None:
    file = nar_file("a")
    for cache in (OTHER, CACHE):
        await catalog.uploads.expect(cache, f"of {cache}", file.file_hash, file.blob_key, now=NOW)
    for expected in await catalog.arrivals.expected(None, NOW, 9):
        await catalog.arrivals.count(expected, replace(file, nar_hash=None, nar_size=None), now=NOW)
    await receive(catalog, CACHE, f"of {CACHE}", file, findings="{}", now=NOW)
    assert await catalog.uploads.find(CACHE, file.file_hash) == file
    assert await catalog.uploads.find(OTHER, file.file_hash) is None
    assert [(await catalog.objects.size(cache)).incoming_size for cache in (CACHE, OTHER)] == [file.file_size, 0]
    assert not await catalog.repairs.wrong_totals()


async def test_a_file_that_was_expected_anew_since_it_was_seen_is_not_counted(catalog: SqlCatalog) -> None:
    """What had been there may be deleted since, and the file be on its way once more."""
    file = nar_file("a")
    await catalog.uploads.expect(CACHE, "s", file.file_hash, file.blob_key, now=NOW)
    (expected,) = await catalog.arrivals.expected(None, NOW, 9)
    await catalog.uploads.expect(CACHE, "t", file.file_hash, file.blob_key, now=later(1))
    await catalog.arrivals.count(expected, file, now=later(1))
    assert (await catalog.objects.size(None)).size == 0
    assert len(await catalog.arrivals.expected(None, later(1), 9)) == 1


async def test_expected_files_are_told_in_pages(catalog: SqlCatalog) -> None:
    files = [nar_file(name) for name in ("a", "b", "c")]
    for seconds, file in enumerate(files):
        await catalog.uploads.expect(CACHE, "s", file.file_hash, file.blob_key, now=later(seconds))
    first = await catalog.arrivals.expected(None, later(9), 2)
    assert [one.file_hash for one in first] == [file.file_hash for file in files[:2]]
    second = await catalog.arrivals.expected(first[-1], later(9), 2)
    assert [one.file_hash for one in second] == [files[2].file_hash]


async def _end(catalog: SqlCatalog, session: str) -> None:
    row = Session(id=session, cache=CACHE, principal="token ci", begun=NOW, seen=NOW)
    await catalog.uploads.session(row, end=True)


async def test_a_nar_of_another_cache_is_not_told(catalog: SqlCatalog) -> None:
    file = nar_file("a")
    assert file.nar_hash is not None
    await receive(catalog, OTHER, "t", file, findings="{}", now=NOW)
    assert await catalog.sessions.nars(CACHE, "s", [file.nar_hash], now=NOW) == {}


async def test_the_files_of_what_readers_see_are_told_and_no_others(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await catalog.objects.publish(publication(CACHE, "waits", ["gone"]), now=NOW)
    await catalog.objects.publish(publication(OTHER, "elsewhere"), now=NOW)
    asked = hash_parts(("a", "waits", "elsewhere", "never"))
    assert await catalog.sessions.files(CACHE, asked) == {hash_part("a"): nar_file("a")}
    assert await catalog.sessions.blob_keys(CACHE, asked) == {hash_part("a"): nar_file("a").blob_key}


async def test_a_file_that_is_quarantined_is_not_told(catalog: SqlCatalog) -> None:
    await catalog.objects.publish(publication(CACHE, "a"), now=NOW)
    await catalog.nars.quarantine(nar_file("a").file_hash, "lost", now=NOW)
    assert await catalog.sessions.files(CACHE, [hash_part("a")]) == {}
    assert await catalog.sessions.blob_keys(CACHE, [hash_part("a")]) == {}


async def test_thousands_of_files_are_told_by_one_question(catalog: SqlCatalog) -> None:
    """More than a database takes in one statement."""
    names = [f"n{number}" for number in range(1200)]
    await catalog.objects.publish(publication(CACHE, names[0]), now=NOW)
    await catalog.objects.publish(publication(CACHE, names[-1]), now=NOW)
    assert len(await catalog.sessions.files(CACHE, hash_parts(names))) == 2
    assert len(await catalog.sessions.blob_keys(CACHE, hash_parts(names))) == 2
