import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from lab import Lab
from trees import File, Folder, Link, Tree, events, nar, trees

from harmonia_py.errors import FormatError
from harmonia_py.nix.listing import format_listing
from harmonia_py.nix.nar import Directory
from harmonia_py.nix.nar_parser import Parser


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("nix")) as lab:
        yield lab


def listing(tree: Tree) -> bytes:
    return format_listing(events(tree))


@pytest.mark.parametrize(
    "tree",
    [
        File(b"hello"),
        File(b"", executable=True),
        Link(b"../caf\xc3\xa9"),
        Folder({}),
        Folder({b"bar": File(b"foo\n")}),
        Folder({b"a": Folder({b"b": Folder({}), b"c": Link(b"x")}), b"b": Folder({b"x": File(b"1", executable=True)})}),
        Folder(
            {name: File(name) for name in (b"a", b"a.b", b"a-b", b"A", "é".encode(), b"~", b"\x01", b"\n\t", b'"\\')}
        ),
        Folder({"\N{SNOWMAN}\N{PILE OF POO}\x7f\x80".encode(): Link("</script>\u2028".encode())}),
    ],
)
def test_it_says_what_nix_says(nix: Lab, tmp_path: Path, tree: Tree) -> None:
    archive = tmp_path / "archive.nar"
    archive.write_bytes(nar(tree))
    theirs = nix.run("nix", "nar", "ls", "--json", "--recursive", str(archive), "/").stdout.strip()
    assert json.loads(listing(tree)) == {"version": 1, "root": json.loads(theirs)}
    if theirs.startswith(b'{"type":'):
        # Newer versions of Nix sort the keys.
        assert listing(tree) == b'{"version":1,"root":' + theirs + b"}"


@given(trees())
def test_it_is_json_in_utf_8_whatever_the_names(tree: Tree) -> None:
    parsed = json.loads(listing(tree).decode())
    assert parsed["version"] == 1
    _same(tree, parsed["root"], nar(tree))


def _same(tree: Tree, listed: dict[str, object], archive: bytes) -> None:
    match tree:
        case File(contents, executable):
            offset = listed.pop("narOffset")
            assert isinstance(offset, int)
            assert archive[offset:].startswith(contents)
            flag = {"executable": True} if executable else {}
            assert listed == {"type": "regular", "size": len(contents), **flag}
        case Link(target):
            assert listed == {"type": "symlink", "target": target.decode(errors="backslashreplace")}
        case Folder(entries):
            found = listed["entries"]
            assert isinstance(found, dict)
            assert set(listed) == {"type", "entries"}
            assert set(found) == {name.decode(errors="backslashreplace") for name in entries}
            for name, entry in entries.items():
                _same(entry, found[name.decode(errors="backslashreplace")], archive)


def test_bytes_that_are_not_utf_8_are_escaped() -> None:
    text = listing(Folder({b"caf\xe9": Link(b"\xff"), b"caf\xe8": File()})).decode()
    assert list(json.loads(text)["root"]["entries"]) == ["caf\\xe8", "caf\\xe9"]
    assert json.loads(text)["root"]["entries"]["caf\\xe9"]["target"] == "\\xff"


def test_an_archive_that_was_received_can_be_listed() -> None:
    tree = Folder({b"a": File(b"hello"), b"b": Link(b"a")})
    assert format_listing(Parser().feed(nar(tree))) == listing(tree)


def test_what_is_no_tree_is_refused() -> None:
    with pytest.raises(FormatError):
        format_listing([])
    with pytest.raises(FormatError):
        format_listing([Directory(b"")])
