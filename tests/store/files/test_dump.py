import hashlib
import json
import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import Lab
from trees import File, Folder, Link, Tree, events, nar, read_pieces, trees, write

from harmonia_py.cache.source import FileSlice, Pause
from harmonia_py.errors import StorageError, StorePathChanged
from harmonia_py.nix.listing import format_listing
from harmonia_py.nix.nar import MAX_DEPTH
from harmonia_py.store.files.dump import dump, layout_of, scan

LARGE = 300_000
"""A size that is sent as a slice of the file."""


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("nix")) as lab:
        yield lab


def dumped(path: Path, start: int = 0, stop: int | None = None) -> bytes:
    return read_pieces(dump(str(path), layout_of(str(path)), start, stop))


def theirs(nix: Lab, path: Path) -> bytes:
    return nix.run("nix-store", "--dump", str(path)).stdout


def opened_below(path: Path) -> set[Path]:
    """What this process holds open at or below `path`."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        # The descriptor that lists this directory is gone when we come to look at it.
        with suppress(FileNotFoundError):
            found.add(link.readlink())
    return {target for target in found if target.is_relative_to(path)}


TREES: dict[str, Tree] = {
    "a file": File(b"hello"),
    "an executable file": File(b"#!/bin/sh\n", executable=True),
    "an empty file": File(),
    "a symbolic link": Link(b"hello"),
    "a dangling link that is not UTF-8": Link(b"/nowhere/\xff//./x/"),
    "an empty directory": Folder({}),
    "sizes around multiples of 8": Folder({b"%02d" % size: File(b"x" * size) for size in range(26)}),
    "sizes around what is sent as slices": Folder(
        {b"%08d" % size: File(bytes(size)) for k in (1, 2, 4, 8) for size in range(k * 65536 - 1, k * 65536 + 2)}
    ),
    "names in the order of bytes": Folder(
        {
            name: File(name)
            for name in (
                b"a",
                b"a.b",
                b"a-b",
                b"a b",
                b"a0",
                b"A",
                b"B",
                b"b",
                "é".encode(),
                b"\xe9",
                b"\xff",
                b"\xed\xb3\xbf",
            )
        }
        | {"\uffff".encode(): Link(b"x"), "\U00010000".encode(): Folder({})}
    ),
    "directories within directories": Folder(
        {
            b"a": Folder({b"b": Folder({b"c": Folder({b"f": File(b"1")}), b"d": File(b"2")}), b"e": Folder({})}),
            b"f": File(b"3", executable=True),
            b"g": Folder({b"h": Folder({b"i": File(b"4")})}),
            b"l": Link(b"f"),
        }
    ),
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_a_dump_is_the_one_of_nix(nix: Lab, tmp_path: Path, tree: Tree) -> None:
    path = tmp_path / "tree"
    write(tree, path)
    archive = theirs(nix, path)
    assert nar(tree) == archive
    assert layout_of(str(path)).size == len(archive)
    assert dumped(path) == archive
    assert list(scan(str(path))) == list(events(tree))


def test_ten_thousand_small_files_are_dumped_and_listed_as_by_nix(nix: Lab, tmp_path: Path) -> None:
    path = tmp_path / "many"
    path.mkdir()
    for folder in range(100):
        (path / f"d{folder}").mkdir()
        for number in range(100):
            (path / f"d{folder}" / f"file{number}").write_bytes(b"%d" % number * (number % 40))
    archive = theirs(nix, path)
    assert dumped(path) == archive
    middle = len(archive) // 2
    assert dumped(path, middle, middle + 100_000) == archive[middle : middle + 100_000]
    (tmp_path / "nar").write_bytes(archive)
    listed = nix.run("nix", "nar", "ls", "--json", "--recursive", str(tmp_path / "nar"), "/").stdout.strip()
    # Not in one line: pytest would explain a difference of a megabyte for minutes.
    is_equal = json.loads(format_listing(scan(str(path)))) == {"version": 1, "root": json.loads(listed)}
    assert is_equal


def test_the_layout_of_ten_thousand_files_is_small(tmp_path: Path) -> None:
    for number in range(10_000):
        os.mknod(tmp_path / f"{number}", 0o644 | stat.S_IFREG)
    assert layout_of(str(tmp_path)).memory < 1_500_000


@given(trees(max_contents=200))
@settings(max_examples=50)
def test_any_tree_is_dumped_as_the_grammar_says(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree"
        write(tree, path)
        assert layout_of(str(path)).size == len(nar(tree))
        assert dumped(path) == nar(tree)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with gathered files, slices and links."""
    path = tmp_path_factory.mktemp("mixed") / "tree"
    large = bytes(range(256)) * (LARGE // 256)
    small = {b"%d" % number: File(b"%d" % number * number) for number in range(100)}
    write(
        Folder({b"a": Folder(dict(small)), b"b": File(large), b"c": Link(b"b"), b"d": Folder({b"e": File(large)})}),
        path,
    )
    return path


@given(st.data())
def test_any_range_is_that_of_the_whole(mixed: Path, data: st.DataObject) -> None:
    whole = _whole(mixed)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert dumped(mixed, start, stop) == whole[start:stop]


@cache
def _whole(path: Path) -> bytes:
    return dumped(path)


def test_large_files_are_slices_and_small_ones_are_gathered(mixed: Path) -> None:
    pieces = list(dump(str(mixed), layout_of(str(mixed))))
    assert [type(piece) for piece in pieces] == [bytes, FileSlice, bytes, FileSlice, bytes]
    assert all(pieces)


def test_pieces_are_bounded(tmp_path: Path) -> None:
    """A forest of symbolic links is one long run of bytes without contents."""
    write(
        Folder(
            {b"f%03d" % number: File(bytes(60_000)) for number in range(100)}
            | {b"l%05d" % number: Link(b"t" * 4000) for number in range(1000)}
        ),
        tmp_path / "tree",
    )
    sizes = []
    for piece in dump(str(tmp_path / "tree"), layout_of(str(tmp_path / "tree"))):
        assert isinstance(piece, bytes)
        sizes.append(len(piece))
    assert max(sizes) <= 512 * 1024
    assert len(sizes) < 2 * sum(sizes) // (256 * 1024) + 2


def test_a_slice_stays_open_until_the_next_piece(mixed: Path) -> None:
    pieces = dump(str(mixed), layout_of(str(mixed)))
    next(pieces)
    piece = next(pieces)
    assert isinstance(piece, FileSlice)
    assert mixed / "b" in opened_below(mixed)
    next(pieces)
    assert mixed / "b" not in opened_below(mixed)
    assert len(list(pieces)) == 2
    assert opened_below(mixed) == set()


def test_closing_a_dump_midway_closes_every_descriptor(mixed: Path) -> None:
    layout = layout_of(str(mixed))
    for count in range(1, 6):
        pieces = dump(str(mixed), layout)
        for _ in range(count):
            next(pieces)
        pieces.close()
        assert opened_below(mixed) == set()
    events_ = scan(str(mixed))
    for _ in range(5):
        next(events_)
    assert opened_below(mixed)
    events_.close()
    assert opened_below(mixed) == set()


def _replace(path: Path, tree: Tree) -> None:
    path.unlink()
    write(tree, path)


def _replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        # The limit of a socket's name is shorter than the name of pytest's directories.
        fd = os.open(path.parent, os.O_PATH)
        listening.bind(f"/proc/self/fd/{fd}/{path.name}")
        os.close(fd)


def _same_elsewhere(path: Path) -> None:
    """A link to a file that is as it should be."""
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


CHANGES: dict[str, Callable[[Path], object]] = {
    "grew": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "shrank": lambda path: path.write_bytes(path.read_bytes()[1:]),
    "became empty": lambda path: path.write_bytes(b""),
    "vanished": lambda path: path.unlink(),
    "became executable": lambda path: path.chmod(0o755),
    "became a link": _same_elsewhere,
    "became a dangling link": lambda path: _replace(path, Link(b"x")),
    "became a directory": lambda path: _replace(path, Folder({})),
    "became a FIFO": _replace_by_fifo,
    "became a socket": _replace_by_socket,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("size", [5, LARGE])
def test_a_file_that_changed_is_noticed_and_never_sent(
    tmp_path: Path, change: Callable[[Path], object], size: int
) -> None:
    path = tmp_path / "tree"
    tree = Folder({b"a": File(b"1"), b"d": Folder({b"file": File(b"x" * size)}), b"e": File(b"2")})
    write(tree, path)
    layout = layout_of(str(path))
    change(path / "d" / "file")
    received = bytearray()
    with pytest.raises(StorePathChanged):
        received.extend(part for piece in dump(str(path), layout) for part in read_pieces(iter((piece,))))
    assert nar(tree).startswith(received)
    assert opened_below(tmp_path) == set()


def test_an_empty_file_that_grew_is_noticed(tmp_path: Path) -> None:
    write(Folder({b"a": File()}), tmp_path / "tree")
    layout = layout_of(str(tmp_path / "tree"))
    (tmp_path / "tree" / "a").write_bytes(b"x")
    with pytest.raises(StorePathChanged):
        list(dump(str(tmp_path / "tree"), layout))


@pytest.mark.parametrize(
    "change", ["grew", "shrank", "vanished", "became executable", "became a link", "became a FIFO"]
)
def test_a_store_path_that_is_a_file_is_watched_too(tmp_path: Path, change: str) -> None:
    path = tmp_path / "store" / "file"
    path.parent.mkdir()
    path.write_bytes(b"hello")
    layout = layout_of(str(path))
    CHANGES[change](path)
    with pytest.raises(StorePathChanged):
        list(dump(str(path), layout))


def test_a_directory_replaced_by_a_link_does_not_lead_outside(tmp_path: Path) -> None:
    """A builder that can write a store path for a moment could otherwise have any file of this machine sent."""
    write(Folder({b"secret": File(b"hidden")}), tmp_path / "outside")
    write(Folder({b"d": Folder({b"secret": File(b"public")})}), tmp_path / "tree")
    layout = layout_of(str(tmp_path / "tree"))
    (tmp_path / "tree" / "d").rename(tmp_path / "away")
    (tmp_path / "tree" / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(StorePathChanged):
        list(dump(str(tmp_path / "tree"), layout))


def test_a_root_replaced_by_a_link_is_noticed(tmp_path: Path) -> None:
    write(Folder({b"f": File(b"1")}), tmp_path / "tree")
    layout = layout_of(str(tmp_path / "tree"))
    (tmp_path / "tree").rename(tmp_path / "away")
    (tmp_path / "tree").symlink_to(tmp_path / "away")
    with pytest.raises(StorePathChanged):
        list(dump(str(tmp_path / "tree"), layout))


def test_a_path_deleted_between_pieces_is_noticed(mixed: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", mixed, tmp_path / "tree"], check=True)
    pieces = dump(str(tmp_path / "tree"), layout_of(str(tmp_path / "tree")))
    next(pieces)
    subprocess.run(["rm", "-r", tmp_path / "tree"], check=True)
    with pytest.raises(StorePathChanged):
        list(pieces)
    assert opened_below(tmp_path) == set()


@pytest.mark.parametrize("change", ["became a FIFO", "became a socket"])
def test_what_no_archive_has_cannot_be_scanned(tmp_path: Path, change: str) -> None:
    write(Folder({b"d": Folder({b"f": File()})}), tmp_path / "tree")
    CHANGES[change](tmp_path / "tree" / "d" / "f")
    with pytest.raises(StorePathChanged):
        list(scan(str(tmp_path / "tree")))
    with pytest.raises(StorePathChanged):
        list(scan(str(tmp_path / "tree" / "d" / "f")))
    assert opened_below(tmp_path) == set()


def test_a_path_that_is_not_there_cannot_be_scanned(tmp_path: Path) -> None:
    with pytest.raises(StorePathChanged):
        layout_of(str(tmp_path / "tree"))


def test_a_directory_that_vanishes_during_a_scan_is_noticed(tmp_path: Path) -> None:
    write(Folder({b"a": File(), b"b": Folder({})}), tmp_path / "tree")
    found = scan(str(tmp_path / "tree"))
    next(found)
    next(found)
    (tmp_path / "tree" / "b").rmdir()
    with pytest.raises(StorePathChanged):
        list(found)


def test_directories_nested_as_deeply_as_nix_allows_are_dumped(nix: Lab, tmp_path: Path) -> None:
    tree: Tree = File(b"x")
    for _ in range(MAX_DEPTH - 1):
        tree = Folder({b"d": tree, b"e": File()})
    write(tree, tmp_path / "tree")
    assert dumped(tmp_path / "tree") == theirs(nix, tmp_path / "tree")


def test_directories_nested_more_deeply_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "tree"
    deepest = path.joinpath(*["d"] * (MAX_DEPTH - 1))
    deepest.mkdir(parents=True)
    layout_of(str(path))
    (deepest / "f").write_bytes(b"")
    with pytest.raises(StorageError):
        layout_of(str(path))
    with pytest.raises(StorageError):
        list(scan(str(path)))
    assert opened_below(tmp_path) == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_the_servers_fault(tmp_path: Path) -> None:
    write(Folder({b"a": File(b"x")}), tmp_path / "tree")
    (tmp_path / "tree" / "a").chmod(0)
    with pytest.raises(StorageError):
        dumped(tmp_path / "tree")


def _sha256_of_pieces(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in dump(str(path), layout_of(str(path))):
        assert not isinstance(piece, Pause)
        if isinstance(piece, bytes):
            digest.update(piece)
            continue
        edges = [*range(piece.offset, piece.offset + piece.size, 1 << 20), piece.offset + piece.size]
        for start, stop in pairwise(edges):
            digest.update(os.pread(piece.fd, stop - start, start))
    return digest.hexdigest()


def test_the_middle_of_a_huge_file_comes_at_once(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"")
    os.truncate(tmp_path / "huge", 2**31)
    with (tmp_path / "huge").open("r+b") as file:
        file.seek(2**30)
        file.write(b"here")
    layout = layout_of(str(tmp_path))
    start = layout.offsets[0] + 2**30
    assert read_pieces(dump(str(tmp_path), layout, start, start + 4)) == b"here"
    [piece] = dump(str(tmp_path), layout, start, start + 2**29)
    assert piece == FileSlice(piece.fd if isinstance(piece, FileSlice) else -1, 2**30, 2**29)


@pytest.mark.slow
def test_a_huge_file_is_dumped_as_by_nix(nix: Lab, tmp_path: Path) -> None:
    path = tmp_path / "tree"
    write(Folder({b"a": File(b"1"), b"huge": File(b"start"), b"z": File(b"2")}), path)
    os.truncate(path / "huge", 2**31 + 3)
    command = f"nix-store --dump {path} | sha256sum"
    assert _sha256_of_pieces(path) == nix.run("sh", "-c", command).stdout.decode().split()[0]
