import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab import Lab
from plain_store import PlainStore
from trees import File

from harmonia_py.cache.explore import Closure
from harmonia_py.errors import DaemonUnreachable, StorageError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.index import explore
from harmonia_py.store.index.explore import StoreExplorer
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


@pytest.fixture
async def explorer(store: PlainStore) -> AsyncIterator[StoreExplorer]:
    explorer = StoreExplorer(store, store.real)
    yield explorer
    await explorer.aclose()


def chain(store: PlainStore, length: int) -> list[StorePath]:
    """Store paths of which each refers to the one before."""
    paths: list[StorePath] = []
    for number in range(length):
        paths.append(store.add(f"link-{number}", File(b"x"), references=tuple(paths[-1:])))
    return paths


async def test_the_closure_is_the_one_that_nix_tells(lab: Lab) -> None:
    metadata: StoreMetadata = SqliteStore(lab.database, lab.store_dir)
    explorer = StoreExplorer(metadata, lab.real_store)
    told = lab.nix("path-info", "--closure-size", lab.full(lab.closure.top)).split()
    requisites = lab.nix_store("--query", "--requisites", lab.full(lab.closure.top)).split()
    try:
        closure = await explorer.closure(lab.closure.top)
        referrers = await explorer.referrers(lab.closure.input0)
        of_itself = await explorer.referrers(lab.closure.top)
    finally:
        await explorer.aclose()
        await metadata.aclose()
    assert closure == Closure(len(requisites), int(told[1]), complete=True)
    assert referrers == (lab.closure.input2,)
    assert of_itself == ()


async def test_a_cycle_has_an_end(store: PlainStore, explorer: StoreExplorer) -> None:
    itself = StorePath.parse(f"{'1' * 32}-self")
    info = store.infos[store.add("other", File()).hash_part]
    store.infos[itself.hash_part] = PathInfo(
        store_path=itself, nar_hash=info.nar_hash, nar_size=5, references=(itself,)
    )
    assert await explorer.closure(itself) == Closure(1, 5, complete=True)


async def test_a_walk_stops_at_its_limit_and_says_so(
    store: PlainStore, explorer: StoreExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explore, "MAX_CLOSURE_PATHS", 3)
    closure = await explorer.closure(chain(store, 5)[-1])
    assert closure is not None
    assert (closure.paths, closure.complete) == (3, False)


async def test_a_closure_is_walked_once(store: PlainStore, explorer: StoreExplorer) -> None:
    top = chain(store, 4)[-1]
    first, second = await asyncio.gather(explorer.closure(top), explorer.closure(top))
    assert first == second == await explorer.closure(top)
    assert len(store.asked) == 4


class Slow(PlainStore):
    """A store that answers when the test says so."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.go_on = asyncio.Event()

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        await self.go_on.wait()
        return await super().path_info(hash_part)

    async def all_paths(self) -> list[StorePath]:
        await self.go_on.wait()
        return list(await super().all_paths())


async def test_nobody_waits_long_for_a_long_walk_and_its_result_is_there_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explore, "PATIENCE_SECONDS", 0.01)
    store = Slow(tmp_path)
    top = chain(store, 2)[-1]
    explorer = StoreExplorer(store, store.real)
    assert await explorer.closure(top) is None
    assert await explorer.count() is None
    store.go_on.set()
    patient = explorer._walks.get(top)
    assert patient is not None
    await patient
    closure = await explorer.closure(top)
    assert closure is not None
    assert closure.paths == 2
    await explorer.aclose()


async def test_only_so_many_walks_are_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "PATIENCE_SECONDS", 0.01)
    store = Slow(tmp_path)
    paths = chain(store, explore.MAX_WALKS + 1)
    explorer = StoreExplorer(store, store.real)
    for path in paths:
        assert await explorer.closure(path) is None
    assert len(explorer._walks) == explore.MAX_WALKS
    # Closing ends what is under way; a task that was left would be a warning, and so an error.
    await explorer.aclose()


async def test_what_was_added_is_found(
    store: PlainStore, explorer: StoreExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer._index, "min_rest", 0.0)
    monkeypatch.setattr(explorer._index, "rest", 0.0)
    assert (await explorer.search("zlib", 10)).paths == ()
    added = store.add("zlib", File())
    assert (await explorer.search("zlib", 10)).paths == (added,)
    assert await explorer.count() == 1


async def test_the_index_is_not_made_again_for_every_search(
    store: PlainStore, explorer: StoreExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer._index, "min_rest", 0.0)
    monkeypatch.setattr(explorer._index, "rest", 0.0)
    store.add("zlib", File())
    await explorer.search("zlib", 10)
    index = explorer._index.made
    await explorer.search("zlib", 10)
    assert explorer._index.made is index


class Unreachable(PlainStore):
    async def all_paths(self) -> list[StorePath]:
        raise DaemonUnreachable("away")

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:  # noqa: ARG002  # the port names it
        raise DaemonUnreachable("away")


async def test_who_cannot_tell_says_so_and_is_asked_again(tmp_path: Path) -> None:
    store = Unreachable(tmp_path)
    explorer = StoreExplorer(store, store.real)
    for _ in range(2):
        with pytest.raises(DaemonUnreachable):
            await explorer.search("a", 1)
        with pytest.raises(DaemonUnreachable):
            await explorer.closure(StorePath.parse(f"{'1' * 32}-a"))
    await explorer.aclose()


async def test_a_store_directory_that_is_gone_is_an_error(store: PlainStore, tmp_path: Path) -> None:
    explorer = StoreExplorer(store, tmp_path / "gone")
    with pytest.raises(StorageError):
        await explorer.search("a", 1)
    await explorer.aclose()
