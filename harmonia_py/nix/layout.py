"""The layout of a NAR: the offsets of everything in it, from the names and sizes of a tree, without its contents.

Source: `src/libutil/archive.cc` of Nix. It is what makes a range of a NAR start at once, and its length known ahead.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from harmonia_py.nix.nar import Contents, Directory, DirectoryEnd, Event, Regular, between, encode


class FilePart(NamedTuple):
    """`size` bytes of the file number `file` of a layout, from `offset` on."""

    file: int
    offset: int
    size: int


class Layout:
    """The offsets of everything in the NAR of a tree.

    What stands between two files of one directory is computed when it is asked for, so fifty thousand files take some
    five megabytes. Do not change the attributes.

    Attributes:
        size: of the NAR in bytes (NarSize).
        memory: about how many bytes this object takes.
        names, sizes, offsets, executables: of every regular file, in the order of the NAR; an offset is that of the
            first content byte.
        directories: for every regular file, the index of the directory it is in; -1 for a root that is a file.
        directory_names, directory_parents: of every directory; the root is 0, its name empty and its parent -1.
    """

    __slots__ = (
        "_literals",
        "directories",
        "directory_names",
        "directory_parents",
        "executables",
        "memory",
        "names",
        "offsets",
        "size",
        "sizes",
    )

    def __init__(self) -> None:
        self.size = 0
        self.memory = 0
        self.names: list[bytes] = []
        self.sizes = array("q")
        self.offsets = array("q")
        self.executables = bytearray()
        self.directories = array("i")
        self.directory_names: list[bytes] = []
        self.directory_parents = array("i")
        # What stands before a file, and at the end, where it does not follow from the file and the one before.
        self._literals: dict[int, bytes] = {}

    @classmethod
    def of(cls, events: Iterable[Event | Contents]) -> Self:
        """The layout of the tree that `events` describe.

        Raises:
            FormatError: the events are no tree, or one that exceeds the limits of the format.
        """
        self = cls()
        directory = -1
        pending: list[bytes] = []
        for event, literal, position in encode(events):
            if isinstance(event, Regular):
                self._add(event, position, directory)
                # A file that follows a file is in the same directory.
                if pending or len(self.names) == 1:
                    pending.append(literal)
                    self._keep(len(self.names) - 1, pending)
                    pending = []
                continue
            pending.append(literal)
            if isinstance(event, Directory):
                self.directory_names.append(event.name)
                self.directory_parents.append(directory)
                directory = len(self.directory_names) - 1
                self.memory += 100
            elif isinstance(event, DirectoryEnd):
                directory = self.directory_parents[directory]
            self.size = position
        self._keep(len(self.names), pending)
        return self

    def _add(self, event: Regular, position: int, directory: int) -> None:
        self.names.append(event.name)
        self.sizes.append(event.size)
        self.offsets.append(position)
        self.executables.append(event.executable)
        self.directories.append(directory)
        self.memory += 75 + len(event.name)

    def _keep(self, index: int, pending: list[bytes]) -> None:
        literal = self._literals[index] = b"".join(pending)
        self.memory += 120 + len(literal)

    def _before(self, index: int) -> bytes:
        literal = self._literals.get(index)
        if literal is not None:
            return literal
        return between(self.sizes[index - 1], self.names[index], self.sizes[index], self.executables[index])

    def segments(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | FilePart]:
        """The bytes `start` up to `stop` of the NAR: bytes that are known, and parts of files between them.

        Finding the start takes O(log n). Files without contents appear too, so that a reader can look at each.
        """
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop:
            return
        count = len(self.names)
        index = bisect_right(self.offsets, start)  # the first file whose contents begin behind `start`
        if index and start < (end := self.offsets[index - 1] + self.sizes[index - 1]):
            offset = self.offsets[index - 1]
            yield FilePart(index - 1, start - offset, min(stop, end) - start)
            start = end
        while index < count and start < stop:
            literal = self._before(index)
            position = self.offsets[index]
            if position >= stop or position - len(literal) < start:
                begin = position - len(literal)
                literal = literal[max(0, start - begin) : stop - begin]
            yield literal
            size = self.sizes[index]
            if position < stop:
                yield FilePart(index, 0, min(size, stop - position))
            start = position + size
            index += 1
        if start < stop:
            tail = self._literals[count]
            begin = self.size - len(tail)
            yield tail[max(0, start - begin) : stop - begin]
