"""What is known of kept files, when it is right, and when the catalog fails."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from math import inf
from pathlib import Path

import pytest
from catalogs import opened_catalog, path_info
from nar_source import storage_in
from serving import TIME_LIMIT

from harmonia_py.catalog.caches import STORE, Timestamp
from harmonia_py.catalog.kept import Kept
from harmonia_py.catalog.kept_mirrored import KeptMirrored
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.mirrored import UpstreamNarInfo
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.kept_files import UNKNOWN, FileFacts, key_of
from harmonia_py.contents.storage import Storage
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import ask
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.wiring.replaceable_housekeeping import kept_ports

ONE, OTHER = path_info("one"), path_info("other")
FACTS = FileFacts(Hash.of(b"file"), 4)
LATER = Timestamp(int(time.time()) + 86_400)


def key(info: object = ONE) -> BlobKey:
    assert info in (ONE, OTHER)
    one = ONE if info is ONE else OTHER
    return key_of(NarUrl(one.store_path.hash_part, one.nar_hash, "zstd"))


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with storage_in(tmp_path) as storage:
        yield storage


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog("sqlite", tmp_path / ".catalog") as catalog:
        yield catalog


@pytest.fixture
def kept(storage: Storage, catalog: SqlCatalog) -> Kept:
    return Kept(storage, kept_ports(catalog, LastUses(catalog.objects)))


async def test_facts_are_right_until_something_goes_and_absence_until_something_comes(kept: Kept) -> None:
    absent = await kept.find(key())
    assert absent.facts is None
    assert absent.validity is not None
    await kept.keep(key(), ONE, FACTS)
    found = await kept.find(key())
    assert found.facts == FACTS
    assert not absent.validity.holds(time.monotonic())
    assert found.validity is not None
    await kept.keep(key(OTHER), OTHER, FileFacts(Hash.of(b"other"), 5))
    await kept.find(key(OTHER))
    assert found.validity.holds(time.monotonic())
    await kept.forget(key(OTHER))
    await kept.find(key(OTHER))
    assert not found.validity.holds(time.monotonic())
    assert (await kept.find(key())).facts == FACTS


async def test_what_another_process_keeps_is_known_at_once(kept: Kept, storage: Storage, tmp_path: Path) -> None:
    assert (await kept.find(key())).facts is None
    async with opened_catalog("sqlite", tmp_path / ".catalog") as catalog:
        other = Kept(storage, kept_ports(catalog, LastUses(catalog.objects)))
        await other.keep(key(), ONE, FACTS)
        assert (await kept.find(key())).facts == FACTS
        await other.forget(key())
        assert (await kept.find(key())).facts is None


async def test_of_two_paths_with_equal_files_one_file_serves_both(kept: Kept) -> None:
    await kept.keep(key(), ONE, FACTS)
    await kept.keep(key(OTHER), OTHER, FACTS)
    assert (await kept.find(key())).key == (await kept.find(key(OTHER))).key == key()


@pytest.mark.parametrize("order", list(itertools.permutations(["none", "xz", "zstd"])))
async def test_of_files_of_one_nar_that_come_at_once_the_one_is_named_that_narinfos_offer(
    kept: Kept, storage: Storage, order: Sequence[str]
) -> None:
    """The row named the one that came last, or first; the narinfo then said that nothing was kept."""
    upstream = NarInfo(path_info=ONE, url="nar/x.nar.xz", compression="xz")
    told = UpstreamNarInfo(narinfo=upstream, upstream="up", fetched=0.0, max_age=60.0)
    keys = [key_of(NarUrl(ONE.store_path.hash_part, ONE.nar_hash, compression)) for compression in order]
    for one in keys:
        await storage.put(one, one.encode(), {"file_hash": str(Hash.of(one.encode())), "file_size": str(len(one))})
    await asyncio.gather(*[KeptMirrored(kept).keep(one, told) for one in keys])
    found = await KeptMirrored(kept).find(ONE.store_path.hash_part)
    assert found is not None
    assert found.stored.file.compression == "zstd"
    await KeptMirrored(kept).keep(keys[order.index("none")], told)
    assert (await kept.find(keys[order.index("zstd")])).facts is not None


async def test_a_nar_of_an_upstream_is_entered_with_one_wait_for_the_disk_and_then_known(
    kept: Kept, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each NAR of a mirror took two transactions that waited for the disk, and as many as seven questions."""
    told = UpstreamNarInfo(
        narinfo=NarInfo(path_info=ONE, url="nar/x.nar.zst", compression="zstd"),
        upstream="up",
        fetched=0.0,
        max_age=60.0,
    )
    metadata = {"file_hash": str(FACTS.file_hash), "file_size": str(FACTS.file_size)}
    done: Counter[str] = Counter()
    for name in ("read", "write"):
        monkeypatch.setattr(SqliteDatabase, name, _counted(done, name, getattr(SqliteDatabase, name)))
    await kept.reserve(key())
    await storage.put(key(), b"file", metadata)
    await KeptMirrored(kept).keep(key(), told, metadata)
    assert done == {"read": 1, "write": 1}
    found = await kept.find(key())
    assert (found.facts, found.key) == (FACTS, key())
    assert done == {"read": 1, "write": 1}


async def test_a_file_that_another_process_has_entered_meanwhile_is_not_offered_as_this_one(
    storage: Storage, catalog: SqlCatalog
) -> None:
    """Two workers took in a path, one as xz and one as zstd: the xz file was then sent under the URL of the other."""
    told = UpstreamNarInfo(
        narinfo=NarInfo(path_info=ONE, url="nar/x.nar.xz", compression="xz"), upstream="up", fetched=0.0, max_age=60.0
    )
    as_xz = key_of(NarUrl(ONE.store_path.hash_part, ONE.nar_hash, "xz"))
    for one in (key(), as_xz):
        await storage.put(one, one.encode(), {"file_hash": str(Hash.of(one.encode())), "file_size": str(len(one))})
    kept, other = (Kept(storage, kept_ports(catalog, LastUses(catalog.objects))) for _ in range(2))
    assert await kept.has_nothing_of(ONE.store_path.hash_part)
    await KeptMirrored(other).keep(key(), told)
    await KeptMirrored(kept).keep(as_xz, told)
    found = await kept.find(as_xz)
    assert (found.facts, found.key) == (None, None)
    assert (await kept.find(key())).key == key()


async def test_that_nothing_of_a_path_is_kept_is_found_out_once_for_all_its_files(
    kept: Kept, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that was new took a question for its narinfo, and one for each file that it could have."""
    told = UpstreamNarInfo(
        narinfo=NarInfo(path_info=ONE, url="nar/x.nar.xz", compression="xz"), upstream="up", fetched=0.0, max_age=60.0
    )
    as_xz = key_of(NarUrl(ONE.store_path.hash_part, ONE.nar_hash, "xz"))
    done: Counter[str] = Counter()
    monkeypatch.setattr(SqliteDatabase, "read", _counted(done, "read", SqliteDatabase.read))
    assert await KeptMirrored(kept).find(ONE.store_path.hash_part) is None
    for one in (key(), as_xz):
        assert (await kept.find(one)).facts is None
    assert done == {"read": 1}
    await kept.keep(key(OTHER), OTHER, FACTS)
    done.clear()
    absent = await kept.find(as_xz, lately=True)
    assert absent.validity is not None
    assert not absent.validity.holds(time.monotonic())
    assert done == {}
    await storage.put(as_xz, b"file", {"file_hash": str(FACTS.file_hash), "file_size": str(FACTS.file_size)})
    await KeptMirrored(kept).keep(as_xz, told)
    assert (await kept.find(as_xz, lately=True)).facts == FACTS


def _counted(done: Counter[str], name: str, call: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    def counted(*arguments: object, **options: object) -> Awaitable[object]:
        done[name] += 1
        return call(*arguments, **options)

    return counted


async def test_what_comes_again_while_it_is_garbage_stays(kept: Kept, catalog: SqlCatalog) -> None:
    """A compressed file that came again after its eviction was written, and then deleted as garbage of before."""
    await _let_go(kept, catalog)
    await kept.reserve(key())
    assert await catalog.garbage.claim(10, now=LATER) == []


async def test_what_comes_again_while_it_is_deleted_waits_until_it_is(kept: Kept, catalog: SqlCatalog) -> None:
    """Otherwise the bytes that have just come would be those that are deleted."""
    await _let_go(kept, catalog)
    assert await catalog.garbage.claim(10, now=LATER) == [key()]
    reserving = asyncio.create_task(kept.reserve(key()))
    await asyncio.wait([reserving], timeout=0.15)
    assert not reserving.done()
    await catalog.garbage.forget([key()])
    await reserving


async def test_what_is_deleted_for_ever_is_not_waited_for(
    kept: Kept, catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonia_py.catalog.nars._DELETION_SECONDS", 0.1)
    await _let_go(kept, catalog)
    assert await catalog.garbage.claim(10, now=LATER) == [key()]
    with pytest.raises(StorageError, match="takes too long"):
        await kept.reserve(key())


async def test_a_catalog_that_takes_nothing_keeps_no_file_from_being_kept(kept: Kept, catalog: SqlCatalog) -> None:
    await _let_go(kept, catalog)
    await catalog.database.write(lambda: ask("pragma query_only = 1"))
    await kept.reserve(key())


async def _let_go(kept: Kept, catalog: SqlCatalog) -> None:
    """Keep a file, and let it become garbage."""
    await kept.keep(key(), ONE, FACTS)
    await catalog.mirrored.forget(STORE, ONE.store_path.hash_part, now=Timestamp(int(time.time())))


async def test_a_catalog_that_takes_nothing_more_still_tells_what_it_has(kept: Kept, catalog: SqlCatalog) -> None:
    """Each attempt to name a file made everything unknown for a while."""
    await kept.keep(key(), ONE, FACTS)
    await catalog.database.write(lambda: ask("pragma query_only = 1"))
    await kept.keep(key(OTHER), OTHER, FileFacts(Hash.of(b"other"), 5))
    kept._facts.clear()
    assert (await kept.find(key())).facts == FACTS
    assert (await kept.find(key(OTHER))).facts is None


async def test_a_file_that_came_while_the_catalog_failed_is_named_when_it_can_be_told(
    kept: Kept, storage: Storage, catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was served, and had no row until the next start: it was neither counted nor could it go for want of room."""
    monkeypatch.setattr("harmonia_py.catalog.outages._REST_SECONDS", 0.1)
    gone = key_of(NarUrl(OTHER.store_path.hash_part, OTHER.nar_hash, "zstd"))
    for one in (key(), gone):
        await storage.put(one, b"file", {})
    full = "create trigger full before insert on objects begin select raise(abort, 'the disk is full'); end"
    await catalog.database.write(lambda: ask(full))
    await kept.keep(key(), ONE, FACTS)
    await kept.keep(gone, OTHER, FACTS)
    await storage.delete(gone)
    entering = asyncio.create_task(kept.owed.run())
    assert (await kept.find(key())).facts is None
    await catalog.database.write(lambda: ask("drop trigger full"))
    async with asyncio.timeout(TIME_LIMIT):
        while (await kept.find(key())).facts != FACTS or kept.owed:  # noqa: ASYNC110  # a task makes it true
            await asyncio.sleep(0.01)
    entering.cancel()
    assert (await kept.find(gone)).facts is None  # nothing names what is not there


async def test_a_file_is_named_later_although_the_storage_fails_as_well(
    kept: Kept, storage: Storage, catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose storage could not tell whether it is there was taken for one that is gone, and had no row."""
    monkeypatch.setattr("harmonia_py.catalog.outages._REST_SECONDS", 0.01)
    monkeypatch.setattr("harmonia_py.catalog.owed._STORAGE_SECONDS", 0.01)
    await storage.put(key(), b"file", {})
    full = "create trigger full before insert on objects begin select raise(abort, 'the disk is full'); end"
    await catalog.database.write(lambda: ask(full))
    await kept.keep(key(), ONE, FACTS)
    await catalog.database.write(lambda: ask("drop trigger full"))
    metadata, looks = storage.metadata, itertools.count(1)
    seen_twice = asyncio.Event()

    async def look(of: BlobKey) -> object:
        if next(looks) > 1:
            seen_twice.set()
        return await metadata(of)

    monkeypatch.setattr(storage, "metadata", look)
    storage._rests_until = inf  # it has failed
    naming = asyncio.create_task(kept.owed.run())
    async with asyncio.timeout(TIME_LIMIT):
        await seen_twice.wait()
        storage._rests_until = 0.0
        while (await kept.find(key())).facts != FACTS:  # noqa: ASYNC110  # a task makes it true
            await asyncio.sleep(0.01)
    naming.cancel()
    assert not kept.owed


async def test_a_mirrored_file_is_named_later_although_the_storage_could_not_tell_of_it(
    kept: Kept, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was served, and had no row until the next start: nothing owed it, unlike a file that was compressed here."""
    monkeypatch.setattr("harmonia_py.catalog.owed._STORAGE_SECONDS", 0.01)
    told = UpstreamNarInfo(
        narinfo=NarInfo(path_info=ONE, url="nar/x.nar.zst", compression="zstd"),
        upstream="up",
        fetched=0.0,
        max_age=60.0,
    )
    await storage.put(key(), b"file", {"file_hash": str(FACTS.file_hash), "file_size": str(FACTS.file_size)})
    storage._rests_until = inf  # it has failed
    await KeptMirrored(kept).keep(key(), told)
    storage._rests_until = 0.0
    assert await KeptMirrored(kept).find(ONE.store_path.hash_part) is None
    naming = asyncio.create_task(kept.owed.run())
    async with asyncio.timeout(TIME_LIMIT):
        while await KeptMirrored(kept).find(ONE.store_path.hash_part) is None:  # noqa: ASYNC110  # a task makes it true
            await asyncio.sleep(0.01)
    naming.cancel()
    assert not kept.owed


async def test_without_a_catalog_nothing_is_known_and_nothing_fails(storage: Storage) -> None:
    kept = Kept(storage, None)
    await kept.keep(key(), ONE, FACTS)
    assert await kept.find(key()) == UNKNOWN
    assert await kept.mismatches() == []
    await kept.mark(ONE, None)
    await kept.forget(key())
    assert not kept.owed
    kept.used(ONE.store_path.hash_part)
    assert not await kept.has(key())


async def test_a_path_that_was_wrong_is_marked_until_it_is_kept(kept: Kept) -> None:
    await kept.mark(ONE, None)
    [mismatch] = await kept.mismatches()
    assert (mismatch.store_path, mismatch.expected, mismatch.actual) == (ONE.store_path, ONE.nar_hash, None)
    await kept.keep(key(), ONE, FACTS)
    assert await kept.mismatches() == []
