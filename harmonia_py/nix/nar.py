"""The NAR, Nix's archive: its grammar, and an encoder of all but the contents.

Source: `src/libutil/archive.cc` of Nix and "Nix Archive (NAR) Format" in its manual.

    nar   = str("nix-archive-1") node
    node  = str("(") str("type") kind str(")")
    kind  = str("regular") [str("executable") str("")] str("contents") str(contents)
          | str("symlink") str("target") str(target)
          | str("directory") {str("entry") str("(") str("name") str(name) str("node") node str(")")}
    str   = length as 64 bits, little endian; the bytes; zeros up to a multiple of 8

One vocabulary of events says what a tree is, whether it was found on a disk or in an archive:

    Directory(b""), Regular(b"a", 5, False), Symlink(b"b", b"a"), DirectoryEnd()

The root has the name b"". Entries come in the order of their bytes. The limits are those Nix has since CVE-2026-44028.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from harmonia_py.errors import FormatError

MAX_DEPTH: Final = 64
"""Nodes are nested less deeply than this; the root is at depth 0."""
MAX_NAME_LENGTH: Final = 255
MAX_TARGET_LENGTH: Final = 4095
MAX_SIZE: Final = 2**63 - 1


class Directory(Struct, frozen=True):
    """A directory begins; its entries follow, then a `DirectoryEnd`."""

    name: bytes


class DirectoryEnd(Struct, frozen=True):
    """The innermost open directory has no more entries."""


class Regular(Struct, frozen=True):
    """A file of `size` bytes. A parser lets its `Contents` follow, in as many chunks as they arrive."""

    name: bytes
    size: int
    executable: bool


class Symlink(Struct, frozen=True):
    """A symbolic link, dangling or not."""

    name: bytes
    target: bytes


class Contents(Struct, frozen=True):
    """Some bytes of the `Regular` before it: a view of what the parser was fed, not a copy."""

    data: memoryview


Event = Directory | DirectoryEnd | Regular | Symlink


def string(data: bytes) -> bytes:
    """`str(data)` of the grammar."""
    return struct.pack("<Q", len(data)) + data + bytes(-len(data) % 8)


def strings(*data: bytes) -> bytes:
    """One `str` after the other."""
    return b"".join(map(string, data))


MAGIC: Final = string(b"nix-archive-1")
CLOSE: Final = string(b")")
ENTRY: Final = strings(b"entry", b"(", b"name")
_NODE: Final = string(b"node")
_DIRECTORY: Final = strings(b"(", b"type", b"directory")
_SYMLINK: Final = strings(b"(", b"type", b"symlink", b"target")
REGULAR: Final = (
    strings(b"(", b"type", b"regular", b"contents"),
    strings(b"(", b"type", b"regular", b"executable", b"", b"contents"),
)
_ZEROS: Final = tuple(bytes(-size % 8) for size in range(8))
"""The padding after so many bytes, modulo 8."""

# What ends a node, by the size of what was in it modulo 8: the root closes itself, any other its entry as well.
_END_OF_ROOT: Final = tuple(zeros + CLOSE for zeros in _ZEROS)
_END_OF_ENTRY: Final = tuple(zeros + CLOSE + CLOSE for zeros in _ZEROS)
_ENTRY_OF_LENGTH: Final = tuple(ENTRY + struct.pack("<Q", length) for length in range(MAX_NAME_LENGTH + 1))
NODE_AFTER_NAME: Final = tuple(zeros + _NODE for zeros in _ZEROS)

_pack_size: Final = struct.Struct("<Q").pack
_NAME: Final = re.compile(rb"(?!\.\.?\Z)[^/\x00]{1,255}", re.DOTALL)
_TARGET: Final = re.compile(rb"[^\x00]{1,4095}", re.DOTALL)


def encode(events: Iterable[Event | Contents]) -> Iterator[tuple[Event | None, bytes, int]]:
    """Each event with the bytes of the archive up to its contents, and the offset at which they end.

    Contents are not part of them: they lie at the offset that came with their `Regular`. Last comes None with the bytes
    that end the archive, and its size.

    Raises:
        FormatError: the events are no tree, or one that exceeds the limits of the format.
    """
    previous: list[bytes] = []  # in every open directory, the last name
    owed = MAGIC  # what the node before still needs
    position = 0
    for event in events:
        if isinstance(event, Contents):
            continue
        if not previous and (position or isinstance(event, DirectoryEnd)):
            raise FormatError("an archive has one root")
        if isinstance(event, DirectoryEnd):
            previous.pop()
            literal, owed = owed + end_of_node(previous, 0), b""
        else:
            start = owed + _start(event.name, previous)
            if isinstance(event, Regular):
                literal = start + REGULAR[event.executable] + _pack_size(check_size(event.size))
                owed = end_of_node(previous, event.size)
            elif isinstance(event, Symlink):
                literal = start + _SYMLINK + string(check_target(event.target)) + end_of_node(previous, 0)
                owed = b""
            else:
                literal, owed = start + _DIRECTORY, b""
                previous.append(b"")
        position = check_size(position + len(literal))
        yield event, literal, position
        if isinstance(event, Regular):
            position = check_size(position + event.size)
    if previous or not position:
        raise FormatError("the archive ends too early")
    yield None, owed, position + len(owed)


def between(before: int, name: bytes, size: int, executable: int) -> bytes:
    """The bytes between the contents of a file of `before` bytes and those of the file next to it."""
    return b"".join(
        (
            _END_OF_ENTRY[before % 8],
            _ENTRY_OF_LENGTH[len(name)],
            name,
            NODE_AFTER_NAME[len(name) % 8],
            REGULAR[executable],
            _pack_size(size),
        )
    )


def check_size(size: int) -> int:
    """`size`, when an archive or a file in it can have that many bytes."""
    if not 0 <= size <= MAX_SIZE:
        raise FormatError("a size in an archive is less than 2^63")
    return size


def check_target(target: bytes) -> bytes:
    """`target`, when a symbolic link in an archive can have it."""
    if _TARGET.fullmatch(target) is None:
        raise FormatError("the target of a symbolic link has 1 to 4095 bytes, none of them zero")
    return target


def _start(name: bytes, previous: list[bytes]) -> bytes:
    """The bytes before a node with this name, which becomes the last one of the innermost directory."""
    if not previous:
        if name:
            raise FormatError("the root of an archive has no name")
        return b""
    enter(name, previous)
    return _ENTRY_OF_LENGTH[len(name)] + name + NODE_AFTER_NAME[len(name) % 8]


def enter(name: bytes, previous: list[bytes]) -> None:
    """Note `name` as the last one of the innermost open directory."""
    if _NAME.fullmatch(name) is None:
        raise FormatError("invalid name in an archive")
    if name <= previous[-1]:
        raise FormatError("the entries of a directory are not sorted")
    if len(previous) >= MAX_DEPTH:
        raise FormatError("directories are nested too deeply")
    previous[-1] = name


def end_of_node(previous: list[bytes], size: int) -> bytes:
    """The bytes that end a node behind contents or a target of `size` bytes; the root when no directory is open."""
    return (_END_OF_ENTRY if previous else _END_OF_ROOT)[size % 8]
