from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import File, Folder, Link, Tree, events, joined, nar, trees

from harmonia_py.errors import FormatError
from harmonia_py.nix.nar import Contents, Directory, DirectoryEnd, Event, Regular, Symlink
from harmonia_py.nix.nar_parser import Parser


def parse(*chunks: bytes) -> list[Event | Contents]:
    parser = Parser()
    result = [event for chunk in chunks for event in parser.feed(chunk)]
    parser.close()
    return result


def refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse(data)


@given(trees())
def test_an_archive_is_read_as_the_tree_it_was_made_of(tree: Tree) -> None:
    parsed = joined(parse(nar(tree)))
    assert [event for event, _ in parsed] == list(events(tree))
    assert all(len(contents) == event.size for event, contents in parsed if isinstance(event, Regular))


@given(trees(), st.lists(st.integers(0, 3000), max_size=20))
def test_how_the_bytes_are_cut_does_not_matter(tree: Tree, cuts: list[int]) -> None:
    archive = nar(tree)
    edges = [0, *sorted(min(cut, len(archive)) for cut in cuts), len(archive)]
    chunks = [archive[start:stop] for start, stop in pairwise(edges)]
    assert joined(parse(*chunks)) == joined(parse(archive))


def test_bytes_may_come_one_by_one() -> None:
    tree = Folder({b"a": File(b"x" * 9, executable=True), b"b": Folder({b"c" * 255: Link(b"t" * 4095)}), b"d": File()})
    archive = nar(tree)
    assert joined(parse(*[archive[i : i + 1] for i in range(len(archive))])) == joined(parse(archive))


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_raise_a_format_error(data: bytes) -> None:
    refused(data)
    refused(nar(File())[:24] + data)


@given(trees(), st.data())
def test_damaged_archives_parse_or_raise_a_format_error(tree: Tree, data: st.DataObject) -> None:
    archive = bytearray(nar(tree))
    for position in data.draw(st.lists(st.integers(0, len(archive) - 1), min_size=1, max_size=3)):
        archive[position] = data.draw(st.sampled_from([0, 1, 4, 7, 8, 9, 47, 255]))
    try:
        parsed = joined(parse(bytes(archive)))
    except FormatError:
        return
    # What was accepted is an archive, and there is one way only to write it.
    assert nar(_tree(iter(parsed[1:]), *parsed[0])) == archive


def _tree(parsed: Iterator[tuple[Event, bytes]], event: Event, contents: bytes) -> Tree:
    if isinstance(event, Regular):
        return File(contents, event.executable)
    if isinstance(event, Symlink):
        return Link(event.target)
    entries: dict[bytes, Tree] = {}
    for child, data in parsed:
        if isinstance(child, DirectoryEnd):
            break
        entries[child.name] = _tree(parsed, child, data)
    return Folder(entries)


@given(trees(), st.data())
def test_a_truncated_archive_is_refused(tree: Tree, data: st.DataObject) -> None:
    archive = nar(tree)
    refused(archive[: data.draw(st.integers(0, len(archive) - 1))])


@given(trees(), st.binary(min_size=1, max_size=20))
def test_bytes_after_the_end_are_refused(tree: Tree, trailing: bytes) -> None:
    refused(nar(tree) + trailing)
    parser = Parser()
    parser.feed(nar(tree))
    with pytest.raises(FormatError):
        parser.feed(trailing)


def _replaced(tree: Tree, old: bytes, new: bytes) -> bytes:
    archive = nar(tree)
    assert archive.count(old) == 1
    return archive.replace(old, new)


def test_padding_is_zero() -> None:
    for tree in (File(b"abc"), Link(b"abc"), Folder({b"abc": File()})):
        refused(_replaced(tree, b"abc\0\0\0\0\0", b"abc\0\0\0\0\x01"))


@pytest.mark.parametrize("name", [b".", b"..", b"a/b", b"a\0"])
def test_a_name_that_leads_elsewhere_is_refused(name: bytes) -> None:
    refused(nar(Folder({name: File()})))
    refused(nar(Folder({name: Folder({})})))
    refused(nar(Folder({name: Link(b"/etc")})))


def test_names_and_targets_have_bounds() -> None:
    parse(nar(Folder({b"x" * 255: Link(b"y" * 4095)})))
    refused(nar(Folder({b"x" * 256: File()})))
    refused(nar(Folder({b"": File()})))
    refused(nar(Link(b"y" * 4096)))
    refused(nar(Link(b"")))
    refused(nar(Link(b"a\0b")))


def test_the_same_name_twice_is_refused() -> None:
    """CVE-2024-45593: a link, then a directory of the same name, led out of the store."""
    refused(nar(Folder({b"a": Link(b"/"), b"b": Folder({})})).replace(b"b\0\0\0\0\0\0\0", b"a\0\0\0\0\0\0\0"))


def test_directories_are_nested_less_than_64_deep() -> None:
    """CVE-2026-44028: without a limit, nested directories overflowed the daemon's stack."""
    tree: Tree = File()
    for _ in range(63):
        tree = Folder({b"d": tree})
    parse(nar(tree))
    refused(nar(Folder({b"d": tree})))


def test_a_size_above_63_bits_is_refused_at_once() -> None:
    archive = nar(File())
    head = archive[: archive.index(b"contents") + 8]
    with pytest.raises(FormatError):
        Parser().feed(head + b"\xff" * 8)


def test_a_field_out_of_order_is_refused() -> None:
    """Nix before 2.25 took `executable` behind the contents."""
    plain, executable = nar(File(b"12345678")), nar(File(b"12345678", executable=True))
    flag = executable[executable.index(b"executable") - 8 :][:32]
    end = plain.index(b"12345678") + 8
    refused(plain[:end] + flag + plain[end:])


def test_contents_are_views_and_never_gathered() -> None:
    parser = Parser()
    archive = nar(File(b"x" * 1_000_000))
    start = archive.index(b"contents") + 16
    parser.feed(archive[:start])
    chunk = archive[start : start + 500_000]
    [event] = parser.feed(chunk)
    assert isinstance(event, Contents)
    assert event.data.obj is chunk
    assert parser._pending == b""


def test_what_waits_for_more_bytes_is_bounded() -> None:
    archive = nar(Folder({b"x" * 255: Link(b"y" * 4095)}))
    parser = Parser()
    for position in range(len(archive)):
        parser.feed(archive[position : position + 1])
        assert len(parser._pending) < 5000


def test_an_empty_directory_is_two_events() -> None:
    assert parse(nar(Folder({}))) == [Directory(b""), DirectoryEnd()]
