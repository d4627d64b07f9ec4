import hashlib

import pytest
from hypothesis import given
from trees import File, Folder, Link, Tree, events, nar, trees

from harmonia_py.errors import FormatError
from harmonia_py.nix.nar import MAX_SIZE, Contents, Directory, DirectoryEnd, Event, Regular, Symlink, encode


def encoded(described: list[Event | Contents]) -> bytes:
    return b"".join([literal for _, literal, _ in encode(described)])


def refused(*described: Event | Contents) -> None:
    with pytest.raises(FormatError):
        encoded(list(described))


@given(trees(max_contents=0))
def test_without_contents_the_encoding_is_the_archive(tree: Tree) -> None:
    assert encoded(list(events(tree))) == nar(tree)


@given(trees())
def test_the_offset_of_a_file_is_that_of_its_first_byte(tree: Tree) -> None:
    archive = nar(tree)
    last = 0
    for event, literal, position in encode(events(tree)):
        assert archive[position - len(literal) : position] == literal
        last = position
        if isinstance(event, Regular):
            assert archive[position - 8 : position] == event.size.to_bytes(8, "little")
    assert last == len(archive)


def test_contents_between_events_do_not_matter() -> None:
    described: list[Event | Contents] = [Regular(b"", 5, False), Contents(memoryview(b"hello"))]
    assert encoded(described) == encoded([described[0]])


def test_the_tests_own_archives_are_those_of_nix() -> None:
    """Vectors that were cross-checked with Nix 2.8."""
    assert len(nar(File(b"hello"))) == 120
    digest = hashlib.sha256(nar(File(b"hello"))).hexdigest()
    assert digest == "0a430879c266f8b57f4092a0f935cf3facd48bbccde5760d4748ca405171e969"
    folder = nar(Folder({b"bar": File(b"foo\n")}))
    assert len(folder) == 288
    assert hashlib.sha256(folder).hexdigest() == "26f5dd480d5f58e0ce8d84b96d0afd35ae5707cdc1c2d22e948ff91c5203ddf2"
    assert len(nar(File())) == 112


def test_what_is_no_tree_is_refused() -> None:
    refused()
    refused(DirectoryEnd())
    refused(Directory(b""))
    refused(Directory(b""), Directory(b"a"), DirectoryEnd())
    refused(Directory(b""), DirectoryEnd(), DirectoryEnd())
    refused(Regular(b"", 0, False), Regular(b"", 0, False))
    refused(Directory(b""), DirectoryEnd(), Regular(b"", 0, False))
    refused(Regular(b"a", 0, False))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"\0", b"x" * 256])
def test_a_name_no_file_has_is_refused(name: bytes) -> None:
    refused(Directory(b""), Regular(name, 0, False), DirectoryEnd())
    refused(Directory(b""), Directory(name), DirectoryEnd(), DirectoryEnd())
    refused(Directory(b""), Symlink(name, b"x"), DirectoryEnd())


@pytest.mark.parametrize("name", [b"...", b".a", b"..a", b"\n", b".\n", b"..\n", b"\xff", b"x" * 255])
def test_any_other_name_is_accepted(name: bytes) -> None:
    assert encoded([Directory(b""), Regular(name, 0, False), DirectoryEnd()]) == nar(Folder({name: File()}))


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 4096])
def test_a_target_no_symbolic_link_has_is_refused(target: bytes) -> None:
    refused(Symlink(b"", target))


def test_a_target_may_have_4095_bytes() -> None:
    assert encoded([Symlink(b"", b"\n" * 4095)]) == nar(Link(b"\n" * 4095))


@pytest.mark.parametrize(("first", "second"), [(b"a", b"a"), (b"a", b"A"), (b"aa", b"a"), (b"\xff", b"\xfe")])
def test_entries_out_of_order_are_refused(first: bytes, second: bytes) -> None:
    refused(Directory(b""), Regular(first, 0, False), Symlink(second, b"x"), DirectoryEnd())
    refused(Directory(b""), Directory(first), DirectoryEnd(), Directory(second), DirectoryEnd(), DirectoryEnd())


def test_nodes_are_nested_less_than_64_deep() -> None:
    deep = [Directory(b""), *([Directory(b"d")] * 62)]
    ends = [DirectoryEnd()] * 63
    assert encoded([*deep, Regular(b"f", 0, False), *ends])
    refused(*deep, Directory(b"d"), Regular(b"f", 0, False), DirectoryEnd(), *ends)


@pytest.mark.parametrize("size", [-1, MAX_SIZE - 100, MAX_SIZE, MAX_SIZE + 1, 2**64])
def test_an_archive_of_more_than_63_bits_is_refused(size: int) -> None:
    refused(Directory(b""), Regular(b"a", size, False), Regular(b"b", 0, False), DirectoryEnd())
