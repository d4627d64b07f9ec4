import gc
import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import File, Folder, Link, Tree, names, read_pieces, trees, write

from harmonia_py.cache.tree import Kind
from harmonia_py.errors import StorageError
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.files.walk import Below, FoundDirectory, FoundFile, OpenFile, Walk

ONE = StorePath.parse(f"{'1' * 32}-one")
TWO = StorePath.parse(f"{'2' * 32}-two")
HIDDEN = StorePath.parse(f"{'3' * 32}-hidden")
STORE_DIR = StoreDir.parse("/nix/store")


def found(root: Path, *components: bytes) -> bytes | list[bytes] | None:
    """The contents of a file, the names in a directory, or None; `ONE` and `TWO` are valid."""
    walk = Walk(STORE_DIR, str(root), [ONE.encode(), *components])
    while isinstance(result := walk.run(), StorePath):
        if result not in (ONE, TWO):
            return None
        walk.allow(result)
    if isinstance(result, FoundFile):
        contents = read_pieces(result.file.pieces(0, None))
        result.file.release()
        return contents
    return None if result is None else [entry.name for entry in result.entries]


def make(root: Path, tree: Tree) -> Path:
    write(tree, root / ONE)
    write(Folder({b"file": File(b"two"), b"dir": Folder({})}), root / TWO)
    write(Folder({b"file": File(b"hidden")}), root / HIDDEN)
    return root


targets = st.lists(
    st.sampled_from([b"..", b".", b"", b"a", b"b", b"file", b"dir", ONE.encode(), TWO.encode(), HIDDEN.encode()])
    | st.just(b"nix/store/" + TWO.encode()),
    min_size=1,
    max_size=5,
).map(b"/".join)
few = st.sampled_from([b"a", b"b", b"file", b"dir"])
links = st.recursive(
    st.builds(File, st.binary(min_size=1, max_size=3)) | targets.filter(bool).map(Link),
    lambda inner: st.builds(Folder, st.dictionaries(few, inner, max_size=4)),
    max_leaves=12,
)


@given(tree=links, components=st.lists(few | names(), max_size=4))
def test_whatever_is_found_is_what_the_kernel_finds_inside_valid_paths(tree: Tree, components: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = make(Path(directory), tree)
        result = found(root, *components)
        if result is None:
            return
        path = b"/".join([os.fsencode(root), ONE.encode(), *components])
        if b"/nix/store" in repr(tree).encode():
            return  # the kernel has another idea of it
        real = Path(os.fsdecode(path)).resolve(strict=True)
        assert real.relative_to(root.resolve()).parts[0] in (ONE, TWO)
        assert result == (real.read_bytes() if real.is_file() else sorted(os.fsencode(p.name) for p in real.iterdir()))


@given(tree=trees(), data=st.data())
def test_every_file_of_a_tree_is_found(tree: Tree, data: st.DataObject) -> None:
    components: list[bytes] = []
    inner = tree
    while isinstance(inner, Folder) and inner.entries and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(inner.entries)))
        components.append(name)
        inner = inner.entries[name]
    with tempfile.TemporaryDirectory() as directory:
        result = found(make(Path(directory), tree), *components)
    if isinstance(inner, File):
        assert result == inner.contents
    elif isinstance(inner, Folder):
        assert result == [name for name, _ in inner.sorted()]


@pytest.mark.parametrize("component", [b"a/b", b"/", b"/etc/passwd", b"\0", b"a\0b", b"../x", b"x" * 256])
def test_what_cannot_be_a_name_is_not_found(tmp_path: Path, component: bytes) -> None:
    make(tmp_path, Folder({b"a": Folder({b"b": File(b"x")})}))
    assert found(tmp_path, component) is None


def test_entries_say_what_they_are(tmp_path: Path) -> None:
    make(tmp_path, Folder({b"f": File(b"12345"), b"x": File(b"", True), b"d": Folder({}), b"l": Link(b"\xff/t")}))
    os.mkfifo(tmp_path / ONE / "pipe")
    walk = Walk(STORE_DIR, str(tmp_path), [ONE.encode()])
    walk.allow(ONE)
    result = walk.run()
    assert isinstance(result, FoundDirectory)
    facts = [(entry.name, entry.kind, entry.size, entry.executable, entry.target) for entry in result.entries]
    assert facts == [
        (b"d", Kind.DIRECTORY, 0, False, b""),
        (b"f", Kind.REGULAR, 5, False, b""),
        (b"l", Kind.SYMLINK, 0, False, b"\xff/t"),
        (b"x", Kind.REGULAR, 0, True, b""),
    ]


@pytest.mark.parametrize("elsewhere", [b"/nix/other/", b"/nix/store.old/", b"/other/store/", b"nix/store/"])
def test_a_link_to_another_store_directory_leads_nowhere(tmp_path: Path, elsewhere: bytes) -> None:
    make(tmp_path, Folder({b"l": Link(elsewhere + TWO.encode() + b"/file")}))
    assert found(tmp_path, b"l") is None


def test_the_store_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    make(tmp_path / "real", Folder({b"up": Link(b"../" + TWO.encode() + b"/file")}))
    (tmp_path / "store").symlink_to("real")
    assert found(tmp_path / "store", b"up") == b"two"


def test_a_store_that_cannot_be_read_is_no_absence(tmp_path: Path) -> None:
    """A name that the file system refuses to look up for another reason than absence must not become a 404."""
    root = make(tmp_path, Folder({b"f": File()}))
    descriptors = [os.open("/dev/null", os.O_RDONLY)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors[0] + 1, hard))
        with pytest.raises(StorageError):
            found(root, b"f")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(descriptors[0])


class TestSwapped:
    """Between two steps of a walk, something else takes the place of what was looked at."""

    def test_a_link_that_took_the_place_of_a_file_is_not_opened(self, tmp_path: Path) -> None:
        make(tmp_path, Folder({b"f": File(b"harmless")}))
        with Below(str(tmp_path)) as below:
            place = [ONE.encode()]
            below.look(place, b"f")
            (tmp_path / ONE / "f").unlink()
            (tmp_path / ONE / "f").symlink_to("/etc/passwd")
            with pytest.raises(OSError, match="symbolic links"):
                below.open(place, b"f")

    def test_a_pipe_that_took_the_place_of_a_file_is_not_waited_for(self, tmp_path: Path) -> None:
        make(tmp_path, Folder({b"f": File(b"harmless")}))
        with Below(str(tmp_path)) as below:
            place = [ONE.encode()]
            below.look(place, b"f")
            (tmp_path / ONE / "f").unlink()
            os.mkfifo(tmp_path / ONE / "f")
            assert below.open(place, b"f") is None

    def test_a_link_that_took_the_place_of_a_directory_is_not_entered(self, tmp_path: Path) -> None:
        make(tmp_path, Folder({b"d": Folder({b"e": Folder({b"f": File(b"harmless")})})}))
        outside = tmp_path / "outside"
        (outside / "e").mkdir(parents=True)
        (outside / "e" / "f").write_bytes(b"secret")
        with Below(str(tmp_path)) as below:
            place = [ONE.encode(), b"d"]
            below.look([ONE.encode()], b"d")
            below.look(place, b"e")
            (tmp_path / ONE / "d").rename(tmp_path / ONE / "moved")
            (tmp_path / ONE / "d").symlink_to(outside)
            # It still holds what it entered; from the top it gets nowhere.
            file = below.open([*place, b"e"], b"f")
            assert file is not None
            assert read_pieces(file.pieces(0, None)) == b"harmless"
            file.release()
            with pytest.raises(OSError, match="Not a directory"):
                below.look(place, b"e")

    def test_the_target_read_is_that_of_the_link_that_was_looked_at(self, tmp_path: Path) -> None:
        make(tmp_path, Folder({b"l": Link(b"first")}))
        with Below(str(tmp_path)) as below:
            below.look([ONE.encode()], b"l")
            (tmp_path / ONE / "l").unlink()
            (tmp_path / ONE / "l").symlink_to("second")
            assert below.target() == b"first"


class TestOpenFile:
    @pytest.fixture
    def fd(self, tmp_path: Path) -> int:
        (tmp_path / "f").write_bytes(b"0123456789")
        return os.open(tmp_path / "f", os.O_RDONLY)

    def test_it_is_closed_by_the_last_who_sends_it(self, fd: int) -> None:
        file = OpenFile(fd, 10)
        pieces = file.pieces(2, 5)
        next(pieces)
        file.release()
        os.fstat(fd)
        pieces.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    def test_after_that_nothing_can_be_sent_from_a_descriptor_that_is_another_file_by_now(self, fd: int) -> None:
        """A transfer was cancelled between its release and its thread's first step."""
        file = OpenFile(fd, 10)
        pieces = file.pieces(0, None)
        file.release()
        with pytest.raises(StorageError):
            next(pieces)

    def test_it_is_closed_when_nobody_took_it(self, fd: int) -> None:
        file = OpenFile(fd, 10)
        del file
        gc.collect()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    @pytest.mark.parametrize(("start", "stop"), [(0, None), (3, 7), (0, 10), (5, 99), (10, 10), (10, None), (0, 0)])
    def test_it_gives_the_bytes_that_are_asked_for(self, fd: int, start: int, stop: int | None) -> None:
        file = OpenFile(fd, 10)
        assert read_pieces(file.pieces(start, stop)) == b"0123456789"[start:stop]
        file.release()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    root = make(tmp_path, Folder({b"d": Folder({b"l": Link(b"../d/../f"), b"x": Link(b"/etc")}), b"f": File(b"f")}))
    before = descriptors()
    for components in ((b"d",), (b"d", b"l"), (b"d", b"x"), (b"d", b"none"), (b"f", b"f"), (b"a/b",), (b"f",), ()):
        found(root, *components)
    assert descriptors() == before


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
