"""Listings are made when they are wanted, once for all that want them, and kept within a bound."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
from plain_store import PlainStore
from trees import File, Folder
from waiting import eventually

from harmonia_py.cache.source import DocumentKind
from harmonia_py.nix.listing import format_listing
from harmonia_py.nix.nar import Event
from harmonia_py.store.daemon import known_paths
from harmonia_py.store.files import listings
from harmonia_py.store.files.dump import scan
from harmonia_py.store.files.layouts import identity_of
from harmonia_py.store.files.listings import Listings
from harmonia_py.store.files.scans import Scans
from harmonia_py.store.local import LocalStore

TREE = Folder({f"file-{i}".encode(): File(b"x" * i) for i in range(50)})


class Scanned:
    """Notes what is scanned, and lets a scan begin when it may."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.may_begin = threading.Event()
        self.may_begin.set()

    def scan(self, path: str) -> Generator[Event, None, None]:
        self.paths.append(path)
        assert self.may_begin.wait(30)
        yield from scan(path)


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> Scanned:
    scanned = Scanned()
    monkeypatch.setattr(listings, "scan", scanned.scan)
    return scanned


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


@pytest.fixture
async def scans() -> AsyncIterator[Scans]:
    scans = Scans()
    yield scans
    scans.close()


async def test_head_and_304_make_no_listing(store: PlainStore, scanned: Scanned) -> None:
    """300 HEADs of one large listing, whose clients were gone at once, held every narinfo up for 49 seconds."""
    path = store.add("tree", TREE)
    async with store.site() as site:
        head = await site.request("HEAD", f"/{path.hash_part}.ls")
        assert (head.status, head.headers["Content-Type"], head.headers["Content-Length"]) == (
            200,
            "application/json",
            None,
        )
        for condition in (head.headers["ETag"], "*"):
            answer = await site.request("GET", f"/{path.hash_part}.ls", {"If-None-Match": condition})
            assert answer.status == 304
        assert (await site.request("GET", f"/{path.hash_part}.ls", {"If-Match": '"other"'})).status == 412
        assert scanned.paths == []
        got = await site.get(f"/{path.hash_part}.ls")
        assert got.body == format_listing(scan(str(store.real / path)))
        # From now on it is known, and its length with it.
        head = await site.request("HEAD", f"/{path.hash_part}.ls")
    assert head.headers["Content-Length"] == str(len(got.body))
    assert head.headers["ETag"] == got.headers["ETag"]
    assert len(scanned.paths) == 1


async def test_a_range_of_a_listing_is_of_what_was_made(store: PlainStore, scanned: Scanned) -> None:
    path = store.add("tree", TREE)
    async with store.site() as site:
        part = await site.get(f"/{path.hash_part}.ls", Range="bytes=10-19")
        whole = await site.get(f"/{path.hash_part}.ls")
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert len(scanned.paths) == 1


async def test_a_listing_is_made_once_for_all_that_ask_and_again_when_the_path_was(
    store: PlainStore, scanned: Scanned
) -> None:
    path = store.add("tree", TREE)
    async with store.site() as site:
        answers = await asyncio.gather(*(site.get(f"/{path.hash_part}.ls") for _ in range(20)))
        assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
        page = await site.get(f"/path/{path.hash_part}")
        assert b"file-49" in page.body
        assert len(scanned.paths) == 1
        real = store.real / path
        (real / "file-0").rename(real / "new")
        assert b'"new"' in (await site.get(f"/{path.hash_part}.ls")).body
    assert len(scanned.paths) == 2


async def test_a_path_whose_files_are_gone_has_no_listing_also_for_head(store: PlainStore, scanned: Scanned) -> None:
    path = store.add("tree", TREE)
    gone = store.add("gone", TREE)
    (store.real / gone).rename(store.real / "elsewhere")
    async with store.site() as site:
        del store.infos[gone.hash_part]
        for method in ("HEAD", "GET"):
            assert (await site.request(method, f"/{gone.hash_part}.ls")).status == 404
            assert (await site.request(method, f"/{path.hash_part}.ls")).status == 200
    assert len(scanned.paths) == 1


async def test_narinfos_wait_for_no_listing(store: PlainStore, scanned: Scanned) -> None:
    """What tells whether a narinfo is still right shared its threads with listings, which take a second each."""
    paths = [store.add(f"tree-{i}", TREE) for i in range(12)]
    scanned.may_begin.clear()
    async with store.site() as site:
        listed = [asyncio.create_task(site.get(f"/{path.hash_part}.ls")) for path in paths]
        await eventually(lambda: len(scanned.paths) == 1)
        async with asyncio.timeout(30):
            for path in paths:
                assert (await site.get(f"/{path.hash_part}.narinfo")).status == 200
                assert (await site.request("HEAD", f"/{path.hash_part}.ls")).status == 200
        # Of one client one is made at a time, whatever it asks for.
        assert len(scanned.paths) == 1
        scanned.may_begin.set()
        assert {(await task).status for task in listed} == {200}


async def test_what_tells_whether_a_narinfo_is_right_has_a_thread_of_its_own(
    store: PlainStore, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many listings as there were threads held up the look at the store directory, and with it every narinfo."""
    monkeypatch.setattr(known_paths, "CHECK_SECONDS", 0.0)
    paths = [store.add(f"tree-{i}", TREE) for i in range(12)]
    local = LocalStore(metadata=store, roots=None, real_store=store.real, log_directory=store.real / "log")
    scanned.may_begin.clear()
    wanted = [await local.document(DocumentKind.LISTING, path.hash_part) for path in paths]
    made = [asyncio.ensure_future(one.made()) for one in wanted if one is not None and one.made is not None]
    assert len(made) == 12
    await eventually(lambda: len(scanned.paths) == 2)
    async with asyncio.timeout(30):
        assert await local.narinfo(paths[0].hash_part) is not None
    scanned.may_begin.set()
    await asyncio.gather(*made)
    local.close()


async def test_what_is_kept_has_a_bound(store: PlainStore, scanned: Scanned, scans: Scans) -> None:
    paths = [str(store.real / store.add(f"tree-{i}", TREE)) for i in range(3)]
    size = len(format_listing(scan(paths[0])))
    kept = Listings(scans, max_bytes=2 * size)
    for path in paths:
        await kept.get(path, identity_of(path))
    assert kept.kept(paths[0], identity_of(paths[0])) is None
    for path in paths[1:]:
        assert len(kept.kept(path, identity_of(path)) or b"") == size
    await kept.get(paths[1], identity_of(paths[1]))
    await kept.get(paths[0], identity_of(paths[0]))
    assert kept.kept(paths[2], identity_of(paths[2])) is None
    assert kept.kept(paths[1], identity_of(paths[1])) is not None
    assert len(scanned.paths) == 4


async def test_a_listing_that_is_being_made_is_not_begun_for_a_second_client(
    store: PlainStore, scanned: Scanned, scans: Scans
) -> None:
    """Clients at several addresses have a turn each: a large listing was made for all of them at once."""
    path = str(store.real / store.add("tree", TREE))
    kept = Listings(scans)
    scanned.may_begin.clear()
    asked = [asyncio.create_task(kept.get(path, identity_of(path))) for _ in range(3)]
    await eventually(lambda: scanned.paths)
    scanned.may_begin.set()
    assert {await task for task in asked} == {format_listing(scan(path))}
    assert len(scanned.paths) == 1


async def test_a_listing_that_is_too_large_to_keep_is_given_all_the_same(
    store: PlainStore, scanned: Scanned, scans: Scans
) -> None:
    path = str(store.real / store.add("tree", TREE))
    kept = Listings(scans, max_bytes=10)
    assert await kept.get(path, identity_of(path)) == format_listing(scan(path))
    assert kept.kept(path, identity_of(path)) is None
    assert len(scanned.paths) == 1


async def test_work_leaves_with_its_last_client(scans: Scans) -> None:
    """Requests whose clients had given up were worked off one after the other, while new ones waited behind them."""
    may_end = threading.Event()
    begun: list[str] = []

    def work(name: str) -> str:
        begun.append(name)
        assert may_end.wait(30)
        return name

    running = [asyncio.create_task(scans.run(name, lambda name=name: work(name))) for name in ("a", "b")]  # type: ignore[misc]
    await eventually(lambda: len(begun) == 2)
    first, second = (asyncio.create_task(scans.run("c", lambda: work("c"))) for _ in range(2))
    last = asyncio.create_task(scans.run("d", lambda: work("d")))
    await asyncio.sleep(0)
    last.cancel()
    first.cancel()
    await asyncio.wait([first, last])
    may_end.set()
    assert await second == "c"
    assert [await task for task in running] == ["a", "b"]
    assert await scans.run("e", lambda: work("e")) == "e"
    assert sorted(begun) == ["a", "b", "c", "e"]


async def test_a_failure_is_told_to_all_and_kept_for_none(scans: Scans) -> None:
    def fail() -> None:
        raise OSError("no")

    results = await asyncio.gather(*(scans.run("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 3
    assert await scans.run("a", lambda: 1) == 1


async def test_work_that_has_begun_is_that_of_the_next_client_as_well(scans: Scans) -> None:
    """A client that gave up after a minute, and asked again, had the same large tree scanned a second time."""
    may_end = threading.Event()
    begun: list[str] = []

    def work() -> str:
        begun.append("a")
        assert may_end.wait(30)
        return "done"

    first = asyncio.create_task(scans.run("a", work))
    await eventually(lambda: begun)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(scans.run("a", work))
    await asyncio.sleep(0)
    may_end.set()
    assert await second == "done"
    assert begun == ["a"]
