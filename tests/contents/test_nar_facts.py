import json
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lab import Lab
from trees import File, Folder, Link, Tree, events, nar, trees

from harmonia_py.contents import nar_facts
from harmonia_py.contents.nar_facts import NarFacts, NarReader
from harmonia_py.errors import FormatError
from harmonia_py.nix.listing import format_listing
from harmonia_py.nix.nar import Directory, DirectoryEnd, Regular, string, strings


def _entry(name: bytes, node: bytes) -> bytes:
    return strings(b"entry", b"(", b"name", name, b"node") + node + string(b")")


def _folder(*entries: bytes) -> bytes:
    return strings(b"(", b"type", b"directory") + b"".join(entries) + string(b")")


EMPTY_FILE = strings(b"(", b"type", b"regular", b"contents", b"", b")")


def many(*names: bytes) -> bytes:
    """The archive of a folder with empty files; that of `trees` takes time with the square of their number."""
    return strings(b"nix-archive-1") + _folder(*(_entry(name, EMPTY_FILE) for name in names))


def read(*chunks: bytes) -> NarFacts:
    reader = NarReader()
    for chunk in chunks:
        reader.update(chunk)
    return reader.finish()


def debug_tree(*names: bytes, folder: bytes = b".build-id", first: bytes = b"ab") -> Tree:
    files = Folder({first: Folder({name: File(b"x") for name in names})})
    return Folder({b"lib": Folder({b"debug": Folder({folder: files})})})


@given(trees(), st.lists(st.integers(0, 3000), max_size=12))
def test_the_listing_is_that_of_the_tree_however_the_bytes_are_cut(tree: Tree, cuts: list[int]) -> None:
    archive = nar(tree)
    assume(b"~nix~case~hack~" not in archive)  # Hypothesis reads our code
    edges = [0, *sorted(min(cut, len(archive)) for cut in cuts), len(archive)]
    facts = read(*(archive[start:stop] for start, stop in pairwise(edges)))
    listing = b"".join(facts.listing.portions())
    assert listing == format_listing(events(tree))
    assert facts.listing.size == len(listing)


def test_the_facts_are_those_that_nix_knows(lab: Lab, tmp_path: Path) -> None:
    for path in lab.closure.top, lab.closure.input2, lab.closure.derivation:
        archive = tmp_path / "archive.nar"
        archive.write_bytes(lab.dump(path))
        facts = read(archive.read_bytes())
        theirs = json.loads(lab.nix("nar", "ls", "--json", "--recursive", str(archive), "/"))
        assert json.loads(b"".join(facts.listing.portions())) == {"version": 1, "root": theirs}
        references = lab.nix_store("--query", "--references", lab.full(path)).splitlines()
        assert {lab.store_dir.parse_path(line).hash_part for line in references} <= facts.candidates
        assert facts.has_all_candidates


def test_a_long_listing_is_whole_and_takes_little_memory() -> None:
    names = [b"file-%06d-of-a-folder-with-many-files" % number for number in range(12_000)]
    archive = many(*names)
    reader = NarReader()
    tracemalloc.start()
    for start in range(0, len(archive), 65536):
        reader.update(archive[start : start + 65536])
    facts = reader.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert b"".join(facts.listing.portions()) == format_listing(
        [Directory(b""), *(Regular(name, 0, False) for name in names), DirectoryEnd()]
    )
    assert facts.listing.size > 900_000
    assert peak < 1_400_000


def test_debug_files_are_those_that_nix_indexes() -> None:
    rest = b"0123456789abcdef0123456789abcdef012345"
    good = rest + b".debug"
    facts = read(nar(debug_tree(good, rest, rest[1:] + b".debug", good.upper(), b"x" + good, good + b"\n")))
    assert facts.debug_files == ("ab" + rest.decode(),)
    assert read(nar(debug_tree(good, folder=b".build-ids"))).debug_files == ()
    assert read(nar(debug_tree(good, first=b"abc"))).debug_files == ()
    deeper = Folder({b"usr": debug_tree(good)})
    assert read(nar(deeper)).debug_files == ()
    link = Folder({b"lib": Folder({b"debug": Folder({b".build-id": Folder({b"ab": Folder({good: Link(b"x")})})})})})
    assert read(nar(link)).debug_files == ()


def test_an_archive_that_ends_too_early_has_no_facts() -> None:
    archive = nar(Folder({b"a": File(b"contents")}))
    for end in range(len(archive)):
        reader = NarReader()
        reader.update(archive[:end])
        with pytest.raises(FormatError):
            reader.finish()


def test_an_archive_of_more_entries_than_any_honest_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of many million files would fill the memory of the server."""
    monkeypatch.setattr(nar_facts, "MAX_ENTRIES", 100)
    read(many(*(b"%03d" % number for number in range(99))))
    with pytest.raises(FormatError, match="more than 100 files"):
        read(many(*(b"%03d" % number for number in range(100))))


def test_a_listing_longer_than_is_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nar_facts, "MAX_LISTING_SIZE", 1_000_000)
    with pytest.raises(FormatError, match="listing"):
        read(*_cut(many(*(b"%06d" % number + b'"' * 200 for number in range(4000)))))


def _cut(archive: bytes) -> Iterator[bytes]:
    for start in range(0, len(archive), 65536):
        yield archive[start : start + 65536]


def _nested(depth: int) -> bytes:
    node = EMPTY_FILE
    for _ in range(depth):
        node = _folder(_entry(b"a", node))
    return node


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(_nested(64), id="nested too deeply"),
        pytest.param(_folder(_entry(b"b", EMPTY_FILE), _entry(b"a", EMPTY_FILE)), id="out of order"),
        pytest.param(_folder(_entry(b"a", EMPTY_FILE), _entry(b"a", EMPTY_FILE)), id="twice"),
        pytest.param(_folder(_entry(b"a" * 256, EMPTY_FILE)), id="a name too long"),
        pytest.param(_folder(_entry(b"", EMPTY_FILE)), id="no name"),
        pytest.param(_folder(_entry(b"..", EMPTY_FILE)), id="the folder above"),
        pytest.param(_folder(_entry(b"a/b", EMPTY_FILE)), id="a slash"),
        pytest.param(_folder(_entry(b"a\0", EMPTY_FILE)), id="a zero"),
        pytest.param(_folder(_entry(b"a~nix~case~hack~1", EMPTY_FILE)), id="the case hack of macOS"),
        pytest.param(strings(b"(", b"type", b"symlink", b"target", b"x" * 4096, b")"), id="a target too long"),
        pytest.param(strings(b"(", b"type", b"device", b")"), id="an unknown type"),
        pytest.param(strings(b"(", b"type", b"regular", b"contents", b"", b"executable", b"", b")"), id="fields moved"),
        pytest.param(EMPTY_FILE + b"x", id="bytes behind the end"),
    ],
)
def test_what_harms_a_client_is_refused(node: bytes) -> None:
    """CVE-2026-44028 and its kin: each has crashed some version of Nix, or left its folder."""
    read(strings(b"nix-archive-1") + _nested(63))
    with pytest.raises(FormatError):
        read(strings(b"nix-archive-1") + node)
