import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from plain_store import PlainStore
from trees import File, Folder, Tree

from harmonia_py.cache.tree import BuildId
from harmonia_py.errors import DaemonUnreachable, FormatError, StorageError
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.index import debuginfo
from harmonia_py.store.index.debuginfo import DebugIndex, StoreDebugFiles

ONE = BuildId.parse("01" * 20)
TWO = BuildId.parse("02" * 20)


def debug(*build_ids: BuildId) -> Tree:
    firsts = {build_id[:2].encode(): Folder({f"{build_id[2:]}.debug".encode(): File(b"x")}) for build_id in build_ids}
    return Folder({b"lib": Folder({b"debug": Folder({b".build-id": Folder(firsts)})})})


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


class TestIndex:
    def test_it_knows_every_build_of_a_path(self, store: PlainStore) -> None:
        path = store.add("debug", debug(ONE, TWO))
        index = DebugIndex(str(store.real))
        index.update([path])
        assert (index.find(ONE), index.find(TWO)) == (path, path)
        assert index.find(BuildId("03" * 20)) is None

    def test_when_one_of_two_paths_goes_the_other_is_found(self, store: PlainStore) -> None:
        first, second = store.add("first", debug(ONE)), store.add("second", debug(ONE))
        index = DebugIndex(str(store.real))
        index.update([first, second])
        for gone, left in ((first, second), (second, first)):
            index.update([left])
            assert index.find(ONE) == left
            index.update([gone, left])
        index.update([])
        assert index.find(ONE) is None

    def test_a_path_is_looked_into_once_while_it_is_valid(self, store: PlainStore) -> None:
        path = store.add("debug", debug(ONE))
        index = DebugIndex(str(store.real))
        index.update([path])
        (store.real / path).rename(store.real / "away")
        index.update([path])
        assert index.find(ONE) == path
        index.update([])
        index.update([path])
        assert index.find(ONE) is None

    def test_it_is_bounded(
        self, store: PlainStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(debuginfo, "MAX_DEBUG_FILES", 2)
        paths = [store.add(f"debug{number}", debug(BuildId(f"{number:02x}" * 20))) for number in range(5)]
        index = DebugIndex(str(store.real))
        index.update(paths)
        assert sum(index.find(BuildId(f"{number:02x}" * 20)) is not None for number in range(5)) == 2
        assert "left out" in caplog.text

    def test_a_path_whose_files_are_gone_spoils_nothing(self, store: PlainStore) -> None:
        good = store.add("good", debug(ONE))
        index = DebugIndex(str(store.real))
        index.update([StorePath.parse(f"{'0' * 32}-gone"), good])
        assert index.find(ONE) == good


class GatedStore(PlainStore):
    """Answers `all_paths` when the gate is open, or fails."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False
        self.lists = 0

    async def all_paths(self) -> Sequence[StorePath]:
        self.lists += 1
        await self.gate.wait()
        if self.broken:
            raise DaemonUnreachable("gone")
        return await super().all_paths()


class TestRefresh:
    @pytest.fixture
    def gated(self, tmp_path: Path) -> GatedStore:
        return GatedStore(tmp_path)

    @pytest.fixture
    async def files(self, gated: GatedStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StoreDebugFiles]:
        monkeypatch.setattr(debuginfo, "_REST", 0.0)
        monkeypatch.setattr(debuginfo, "PATIENCE_SECONDS", 0.2)
        files = StoreDebugFiles(gated, gated.real)
        yield files
        gated.gate.set()
        await files.aclose()

    async def test_it_lists_the_store_again_when_the_store_has_changed_and_only_then(
        self, gated: GatedStore, files: StoreDebugFiles
    ) -> None:
        assert await files.find(ONE) is None
        assert await files.find(ONE) is None
        assert gated.lists == 1
        path = gated.add("debug", debug(ONE))
        os.utime(gated.real, ns=(0, 1))  # another time for sure, whatever the granularity of the clock
        found = await files.find(ONE)
        assert found is not None
        assert (found.store_path, found.nar_hash) == (path, gated.infos[path.hash_part].nar_hash)
        assert gated.lists == 2
        assert await files.find(ONE) == found
        assert gated.lists == 2

    async def test_a_path_that_is_no_longer_valid_is_not_offered(
        self, gated: GatedStore, files: StoreDebugFiles
    ) -> None:
        path = gated.add("debug", debug(ONE))
        assert await files.find(ONE) is not None
        del gated.infos[path.hash_part]
        assert await files.find(ONE) is None

    async def test_many_who_ask_at_once_wait_for_one_index(self, gated: GatedStore, files: StoreDebugFiles) -> None:
        gated.add("debug", debug(ONE))
        found = await asyncio.gather(*[files.find(ONE) for _ in range(50)])
        assert all(found)
        assert gated.lists == 1

    async def test_an_index_that_takes_too_long_is_no_absence_and_goes_on(
        self, gated: GatedStore, files: StoreDebugFiles
    ) -> None:
        gated.add("debug", debug(ONE))
        gated.gate.clear()
        with pytest.raises(StorageError):
            await files.find(ONE)
        gated.gate.set()
        assert await files.find(ONE) is not None
        assert gated.lists == 1

    async def test_a_store_that_cannot_tell_is_no_absence(self, gated: GatedStore, files: StoreDebugFiles) -> None:
        gated.add("debug", debug(ONE))
        gated.broken = True
        for _ in range(2):
            with pytest.raises(DaemonUnreachable):
                await files.find(ONE)
        gated.broken = False
        assert await files.find(ONE) is not None


@pytest.mark.parametrize(
    "text", ["", "0" * 39, "0" * 41, "0" * 39 + "g", "0" * 39 + "A", "\uff10" * 40, "0" * 40 + "\n"]
)
def test_a_build_id_is_forty_hexadecimal_digits(text: str) -> None:
    with pytest.raises(FormatError):
        BuildId.parse(text)
