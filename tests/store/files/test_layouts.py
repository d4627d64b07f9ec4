import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import File, Folder, Tree, nar, read_pieces, write

from harmonia_py.errors import StorageError, StorePathChanged
from harmonia_py.store.files.layouts import Layouts
from harmonia_py.store.files.scans import Scans


def _write(path: Path, tree: Tree) -> str:
    write(tree, path)
    return str(path)


def test_a_layout_is_made_once(tmp_path: Path) -> None:
    path = _write(tmp_path / "tree", Folder({b"a": File(b"1")}))
    layouts = Layouts()
    assert layouts.get(path) is layouts.get(path)


def test_a_path_that_was_deleted_and_made_again_is_scanned_again(tmp_path: Path) -> None:
    path = _write(tmp_path / "tree", Folder({b"a": File(b"1")}))
    layouts = Layouts()
    layouts.get(path)
    (tmp_path / "tree").rename(tmp_path / "old")
    tree = Folder({b"b": File(b"2")})
    write(tree, tmp_path / "tree")
    assert read_pieces(layouts.dump(path, layouts.get(path))) == nar(tree)


def test_a_layout_that_turns_out_wrong_is_forgotten(tmp_path: Path) -> None:
    path = _write(tmp_path / "tree", Folder({b"d": Folder({b"a": File(b"1")})}))
    layouts = Layouts()
    layout = layouts.get(path)
    (tmp_path / "tree" / "d" / "a").write_bytes(b"12")
    with pytest.raises(StorePathChanged):
        list(layouts.dump(path, layout))
    assert read_pieces(layouts.dump(path, layouts.get(path))) == nar(Folder({b"d": Folder({b"a": File(b"12")})}))


def test_a_range_is_that_of_the_whole(tmp_path: Path) -> None:
    tree = Folder({b"a": File(b"1" * 100)})
    path = _write(tmp_path / "tree", tree)
    layouts = Layouts()
    assert read_pieces(layouts.dump(path, layouts.get(path), 100, 300)) == nar(tree)[100:300]


def test_the_one_in_use_least_recently_goes_first(tmp_path: Path) -> None:
    paths = [_write(tmp_path / str(number), Folder({b"a": File()})) for number in range(3)]
    size = Layouts().get(paths[0]).memory
    layouts = Layouts(max_bytes=2 * size)
    first, second = layouts.get(paths[0]), layouts.get(paths[1])
    assert layouts.get(paths[0]) is first
    layouts.get(paths[2])
    assert layouts.get(paths[0]) is first
    assert layouts.get(paths[1]) is not second


def test_one_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    path = _write(tmp_path / "tree", Folder({b"a": File()}))
    layouts = Layouts(max_bytes=10)
    assert layouts.get(path) is not layouts.get(path)
    assert layouts._kept.bytes == 0


def test_forgetting_gives_the_memory_back(tmp_path: Path) -> None:
    path = _write(tmp_path / "tree", Folder({b"a": File()}))
    layouts = Layouts()
    layouts.get(path)
    layouts.get(path)
    layouts.drop(path)
    layouts.drop(path)
    assert layouts._kept.bytes == 0


def test_a_path_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    layouts = Layouts()
    for _ in range(2):
        with pytest.raises(StorePathChanged):
            layouts.get(str(tmp_path / "tree"))
    write(File(), tmp_path / "tree")
    layouts.get(str(tmp_path / "tree"))


@pytest.fixture
def scans() -> Iterator[Scans]:
    scans = Scans()
    yield scans
    scans.close()


async def test_many_clients_share_one_scan(tmp_path: Path, scans: Scans) -> None:
    path = _write(tmp_path / "tree", Folder({b"%d" % number: File() for number in range(2000)}))
    layouts = Layouts()
    found = await asyncio.gather(*(scans.run(path, lambda: layouts.get(path)) for _ in range(8)))
    assert len({id(layout) for layout in found}) == 1
    assert scans._jobs == {}


async def test_a_scan_that_fails_fails_for_all_who_wait(tmp_path: Path, scans: Scans) -> None:
    path = _write(tmp_path / "tree", Folder({b"%d" % number: Folder({}) for number in range(300)}))
    layouts = Layouts()
    deep = tmp_path / "tree" / "0"
    deep.joinpath(*["d"] * 70).mkdir(parents=True)
    asked = [scans.run(path, lambda: layouts.get(path)) for _ in range(4)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(one) for one in found} == {StorageError}
    assert scans._jobs == {}
