"""Trees of files as values: how to write one to disk, and its NAR by the book, to hold ours against."""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from harmonia_py.cache.source import FileSlice, Piece
from harmonia_py.nix.nar import Contents, Directory, DirectoryEnd, Event, Regular, Symlink


@dataclass(frozen=True)
class File:
    contents: bytes = b""
    executable: bool = False


@dataclass(frozen=True)
class Link:
    target: bytes


@dataclass(frozen=True)
class Folder:
    entries: Mapping[bytes, "Tree"]

    def sorted(self) -> list[tuple[bytes, "Tree"]]:
        return sorted(self.entries.items(), key=lambda item: item[0])


Tree = File | Link | Folder


def names(max_size: int = 20) -> st.SearchStrategy[bytes]:
    """Any name a file can have, often one that sorts differently as text, by locale, or with its type."""
    tricky = st.sampled_from(
        [b"a", b"a.b", b"a-b", b"a b", b"A", b"aa", "é".encode(), b"\xff", b"\xe9", b"~", b"\n", b'"\\']
    )
    anything = st.binary(min_size=1, max_size=max_size).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    return (tricky | anything).filter(lambda name: name not in {b".", b".."})


def trees(max_contents: int = 40) -> st.SearchStrategy[Tree]:
    files = st.builds(File, st.binary(max_size=max_contents), st.booleans())
    links = st.builds(Link, names(40) | st.just(b"/nix/store/x"))
    leaves: st.SearchStrategy[Tree] = files | links
    return st.recursive(
        leaves | st.just(Folder({})),
        lambda inner: st.builds(Folder, st.dictionaries(names(), inner, max_size=6)),
        max_leaves=20,
    )


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data + b"\0" * (-len(data) % 8)


def _node(tree: Tree) -> bytes:
    match tree:
        case File(contents, executable):
            flag = _text(b"executable") + _text(b"") if executable else b""
            kind = _text(b"regular") + flag + _text(b"contents") + _text(contents)
        case Link(target):
            kind = _text(b"symlink") + _text(b"target") + _text(target)
        case Folder():
            kind = _text(b"directory")
            for name, entry in tree.sorted():
                fields = (b"entry", b"(", b"name", name, b"node")
                kind += b"".join(map(_text, fields)) + _node(entry) + _text(b")")
    return _text(b"(") + _text(b"type") + kind + _text(b")")


def nar(tree: Tree) -> bytes:
    return _text(b"nix-archive-1") + _node(tree)


def events(tree: Tree, name: bytes = b"") -> Iterator[Event]:
    match tree:
        case File(contents, executable):
            yield Regular(name, len(contents), executable)
        case Link(target):
            yield Symlink(name, target)
        case Folder():
            yield Directory(name)
            for child, entry in tree.sorted():
                yield from events(entry, child)
            yield DirectoryEnd()


def write(tree: Tree, path: Path) -> None:
    match tree:
        case File(contents, executable):
            path.write_bytes(contents)
            path.chmod(0o755 if executable else 0o644)
        case Link(target):
            path.symlink_to(os.fsdecode(target))
        case Folder(entries):
            path.mkdir()
            for name, entry in entries.items():
                write(entry, path / os.fsdecode(name))


def joined(parsed: list[Event | Contents]) -> list[tuple[Event, bytes]]:
    """Each event with all of its contents, however many chunks they came in."""
    result: list[tuple[Event, bytes]] = []
    for event in parsed:
        if isinstance(event, Contents):
            result[-1] = result[-1][0], result[-1][1] + bytes(event.data)
        else:
            result.append((event, b""))
    return result


def read_pieces(pieces: Iterator[Piece]) -> bytes:
    data = b""
    for piece in pieces:
        if isinstance(piece, FileSlice):
            data += os.pread(piece.fd, piece.size, piece.offset)
        else:
            assert isinstance(piece, bytes)
            data += piece
    return data
