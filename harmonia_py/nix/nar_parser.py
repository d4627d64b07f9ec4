"""A parser of NARs that does not trust them: for what upstreams send and users push.

Source: `parseDump` in `src/libutil/archive.cc` of Nix, since 2.25 strict about the order of the fields.
"""

import re
import struct
from collections.abc import Callable
from typing import Final

from harmonia_py.errors import FormatError
from harmonia_py.nix.nar import (
    CLOSE,
    ENTRY,
    MAGIC,
    MAX_TARGET_LENGTH,
    NODE_AFTER_NAME,
    REGULAR,
    Contents,
    Directory,
    DirectoryEnd,
    Event,
    Regular,
    Symlink,
    check_size,
    check_target,
    end_of_node,
    enter,
    string,
    strings,
)

_ENTRY_HEAD: Final = re.compile(re.escape(ENTRY) + rb"(.)\x00{7}", re.DOTALL)
_NODE_HEAD: Final = re.compile(
    re.escape(strings(b"(", b"type"))
    + rb"(?:"
    + re.escape(string(b"regular"))
    + rb"("
    + re.escape(strings(b"executable", b""))
    + rb")?"
    + re.escape(string(b"contents"))
    + rb"(.{8})|"
    + re.escape(strings(b"symlink", b"target"))
    + rb"(.{8})|"
    + re.escape(string(b"directory"))
    + rb")",
    re.DOTALL,
)
_LONGEST_NODE_HEAD: Final = len(REGULAR[True]) + 8

_INCOMPLETE: Final = -1
_unpack_size: Final = struct.Struct("<Q").unpack


class Parser:
    """Reads a NAR that arrives in chunks of any size, as strictly as Nix since 2.25 does.

    It buffers a few kilobytes at most and never contents. After a `FormatError` it is of no further use.

    Attributes:
        offsets: where in the archive the contents begin of each `Regular` that the last `feed` returned.
    """

    __slots__ = ("_offset", "_pending", "_previous", "_remaining", "_size", "_step", "offsets")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self._offset = 0  # of the first byte that is fed next, or of the pending ones before it
        self._pending = b""
        self._previous: list[bytes] = []  # in every open directory, the last name
        self._remaining = 0  # bytes of contents still to come
        self._size = 0  # of the contents that precede
        self._step: Callable[[bytes, int, list[Event | Contents]], int] | None = self._magic  # None behind the end

    def feed(self, data: bytes) -> list[Event | Contents]:
        """The events that `data`, the next bytes of the archive, complete.

        Raises:
            FormatError: they are no NAR, or there is something behind its end.
        """
        if self._pending:
            data = self._pending + data
        events: list[Event | Contents] = []
        self.offsets = []
        position = 0
        while position < len(data):
            if self._remaining:
                chunk = memoryview(data)[position : position + self._remaining]
                events.append(Contents(chunk))
                self._remaining -= len(chunk)
                position += len(chunk)
                continue
            if self._step is None:
                raise FormatError("bytes after the end of the archive")
            following = self._step(data, position, events)
            if following == _INCOMPLETE:
                break
            position = following
        self._pending = data[position:]
        self._offset += position
        return events

    def close(self) -> None:
        """Say that no more bytes follow.

        Raises:
            FormatError: the archive is not complete.
        """
        if self._step is not None:
            raise FormatError("the archive ends too early")

    # Each step takes what it knows at a position and returns where the next begins, or that the data is too short to
    # tell; then it is asked again with more. What a step needs is bounded: the longest has a name and a target.

    def _magic(self, data: bytes, position: int, events: list[Event | Contents]) -> int:
        end = position + len(MAGIC)
        if not data.startswith(MAGIC, position):
            return _incomplete(data, position, len(MAGIC))
        return self._node(data, end, b"", events)

    def _entry(self, data: bytes, position: int, events: list[Event | Contents]) -> int:
        if data.startswith(CLOSE, position):
            tail = end_of_node(self._previous[:-1], 0)
            if not data.startswith(tail, position):
                return _incomplete(data, position, len(tail))
            self._previous.pop()
            events.append(DirectoryEnd())
            self._step = self._entry if self._previous else None
            return position + len(tail)
        head = _ENTRY_HEAD.match(data, position)
        if head is None:
            return _incomplete(data, position, len(ENTRY) + 8)
        end = head.end() + ord(head[1])
        node = NODE_AFTER_NAME[ord(head[1]) % 8]
        if not data.startswith(node, end):
            return _incomplete(data, end, len(node))
        return self._node(data, end + len(node), data[head.end() : end], events)

    def _node(self, data: bytes, position: int, name: bytes, events: list[Event | Contents]) -> int:
        head = _NODE_HEAD.match(data, position)
        if head is None:
            return _incomplete(data, position, _LONGEST_NODE_HEAD)
        executable, size, length = head.groups()
        end = head.end()
        if length is not None:
            return self._symlink(data, end, _unpack_size(length)[0], name, events)
        if self._previous:
            enter(name, self._previous)
        if size is None:
            self._previous.append(b"")
            events.append(Directory(name))
            self._step = self._entry
            return end
        self._size = self._remaining = check_size(_unpack_size(size)[0])
        events.append(Regular(name, self._size, executable is not None))
        self.offsets.append(self._offset + end)
        self._step = self._after_contents
        return end

    def _symlink(self, data: bytes, start: int, length: int, name: bytes, events: list[Event | Contents]) -> int:
        if length > MAX_TARGET_LENGTH:
            raise FormatError("the target of a symbolic link is too long")
        tail = end_of_node(self._previous, length)
        end = start + length + len(tail)
        if not data.startswith(tail, start + length):
            return _incomplete(data, start, end - start)
        target = check_target(data[start : start + length])
        if self._previous:
            enter(name, self._previous)
        events.append(Symlink(name, target))
        self._step = self._entry if self._previous else None
        return end

    def _after_contents(self, data: bytes, position: int, _: list[Event | Contents]) -> int:
        tail = end_of_node(self._previous, self._size)
        if not data.startswith(tail, position):
            return _incomplete(data, position, len(tail))
        self._step = self._entry if self._previous else None
        return position + len(tail)


def _incomplete(data: bytes, position: int, needed: int) -> int:
    if len(data) - position >= needed:
        raise FormatError("not an archive")
    return _INCOMPLETE
