import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import File, Folder, Link, Tree, events, nar, trees

from harmonia_py.errors import FormatError
from harmonia_py.nix.layout import Layout
from harmonia_py.nix.nar import Directory


def _contents(tree: Tree) -> list[bytes]:
    if isinstance(tree, File):
        return [tree.contents]
    return [data for _, entry in tree.sorted() for data in _contents(entry)] if isinstance(tree, Folder) else []


def assembled(layout: Layout, tree: Tree, start: int, stop: int | None) -> bytes:
    contents = _contents(tree)
    parts = []
    for segment in layout.segments(start, stop):
        if isinstance(segment, bytes):
            parts.append(segment)
        else:
            part = contents[segment.file][segment.offset : segment.offset + segment.size]
            assert len(part) == segment.size
            parts.append(part)
    return b"".join(parts)


@given(trees())
def test_known_bytes_and_contents_together_are_the_archive(tree: Tree) -> None:
    layout = Layout.of(events(tree))
    assert layout.size == len(nar(tree))
    assert assembled(layout, tree, 0, None) == nar(tree)


@given(trees(), st.data())
def test_every_range_is_that_of_the_archive(tree: Tree, data: st.DataObject) -> None:
    archive = nar(tree)
    start = data.draw(st.integers(0, len(archive)))
    stop = data.draw(st.integers(start, len(archive)))
    layout = Layout.of(events(tree))
    assert assembled(layout, tree, start, stop) == archive[start:stop]
    assert assembled(layout, tree, start, None) == archive[start:]


def test_every_single_range_of_a_small_tree_is_right() -> None:
    tree = Folder(
        {b"a": File(b"12345", executable=True), b"b": File(), b"d": Folder({b"l": Link(b"t"), b"z": File(b"x" * 8)})}
    )
    archive = nar(tree)
    layout = Layout.of(events(tree))
    for start in range(len(archive) + 1):
        for stop in (*range(start, min(start + 40, len(archive) + 1)), len(archive)):
            assert assembled(layout, tree, start, stop) == archive[start:stop]


def test_a_range_beyond_the_end_stops_there() -> None:
    tree = File(b"hello")
    layout = Layout.of(events(tree))
    assert assembled(layout, tree, 100, 10_000) == nar(tree)[100:]
    assert assembled(layout, tree, 120, 10_000) == b""
    assert assembled(layout, tree, 5000, None) == b""


@given(trees())
def test_a_whole_archive_mentions_every_file_once(tree: Tree) -> None:
    """Also those without contents, so that whoever reads them notices when they vanished."""
    layout = Layout.of(events(tree))
    parts = [segment for segment in layout.segments() if not isinstance(segment, bytes)]
    assert [part.file for part in parts] == list(range(len(layout.names)))
    assert [part.size for part in parts] == list(layout.sizes)


def test_it_knows_the_directory_of_each_file() -> None:
    tree = Folder({b"a": Folder({b"b": Folder({b"f": File()})}), b"c": File(), b"d": Folder({b"g": File()})})
    layout = Layout.of(events(tree))
    assert layout.directory_names == [b"", b"a", b"b", b"d"]
    assert list(layout.directory_parents) == [-1, 0, 1, 0]
    assert dict(zip(layout.names, layout.directories, strict=True)) == {b"f": 2, b"c": 0, b"g": 3}


def test_a_root_that_is_a_file_is_in_no_directory() -> None:
    assert list(Layout.of(events(File())).directories) == [-1]


def test_an_incomplete_tree_is_refused() -> None:
    with pytest.raises(FormatError):
        Layout.of([Directory(b"")])


def test_what_lies_between_files_of_one_directory_takes_no_memory() -> None:
    layout = Layout.of(events(Folder({b"%06d" % number: File() for number in range(1000)})))
    assert len(layout._literals) == 2
    assert layout.memory < 100_000
